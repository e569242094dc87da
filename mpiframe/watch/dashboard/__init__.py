"""The web page of a world, and its metrics for Prometheus.

source(since) --feed.Feed, one poll for all viewers--> server.Dashboard --server-sent events--> page/*.js
                                                                       `--/metrics, by metrics.py
"""
