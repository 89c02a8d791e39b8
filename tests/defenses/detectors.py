"""Detectors for the tests."""

import warnings

from fastadv import OddsAreOdd


def fitted(model, x, noise=(("normal", 0.1),), **settings):
    detector = OddsAreOdd(model, noise, **{"draws": 16, **settings})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        detector.fit(x.split(50), quiet=True)
    return detector
