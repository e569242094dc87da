"""GRID_LRT's staging: lists of links, gfal2, and the archive's stager.

What differs: importing asks for no credentials and no gfal2; nothing ends the program; a single link is one
link; a status that cannot be had is an error with its reason, beside the others.
"""
