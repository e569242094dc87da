"""Faces that other packages' scripts know, each in a folder of the other package's name.

A script written for one of them runs here by changing one import. Their habits (None for bad use, ids in
lists, states as strings) end at these faces: behind them everything is mpiframe.
"""
