"""fastloss's benchmarks: ``python -m benchmarks`` from the repository root. Not installed with the library.

Where to look:

* ``__main__.py``: the command line, nothing else
* ``suite.py``: runs the doors, shows the progress bar, assembles and saves the report
* one file per *door* (what is measured): ``kernels.py``, ``classes.py``, ``objective.py``, ``estimators.py``,
  ``own.py``; ``comparison.py`` is what the first two share, ``optima.py`` the whole fits of ``estimators.py``
* what ``own.py`` times: ``own_functions.py`` and ``own_functions.c`` (losses in numba, C and NumPy); ``own_others.py``
  (batches, sums, torch, boosting) with NumPy code in ``own_numpy.py``; ``own_call.py`` is what they share
* one file per *peer* (who is measured): ``peer_numpy.py``, ``peer_sklearn.py``, ``peer_torch.py``, and
  ``peer_fastloss.py`` for ourselves; ``peers.py`` describes the interface they share
* ``problems.py``: the data; ``timing.py``: how a call is timed; ``accuracy.py``: errors in ulp;
  ``machine.py``: the machine sheet, the triad and the read bandwidth; ``report.py``: tables as text, Markdown and JSON

To add a peer, write ``peer_<name>.py`` with the functions of ``peers.Peer`` and name it in ``peers.PEERS``.
To add a door, write a module with the functions of ``suite.Door`` and name it in ``suite.DOORS``.
"""
