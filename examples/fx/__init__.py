"""Signal processing of the FX correlator example: recordings, spectra, fringes, report."""
