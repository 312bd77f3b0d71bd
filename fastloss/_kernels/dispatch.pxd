# cython: language_level=3
"""What other compiled modules (SGD, objectives) may use of dispatch: the active table and a loss's compiled half."""
from fastloss._kernels.abi cimport MAX_PARAMS, LossKernels, Table

# The table of the instruction set in use; set at import, switched only by tests.
cdef const Table *active_table() noexcept nogil


cdef class Kernel:
    """The compiled half of a Loss: which kernels, and the parameters in both working dtypes."""
    cdef readonly str name
    cdef readonly str target        # how y is described in an error message
    cdef bint binary                # labels: -1 and 0 must not be mixed
    cdef double params32[MAX_PARAMS]
    cdef double params64[MAX_PARAMS]
    cdef list names, values         # of the parameters, as given
    cdef int lost32, lost64         # a parameter the dtype cannot hold, or -1
    cdef void *data
    cdef const Table *table         # the table `found` was looked up in
    cdef const LossKernels *found

    # The kernels in the active table; looked up per call, so that a switch of instruction set reaches live objects.
    cdef const LossKernels *kernels(self)

    # The parameters for float32 (single) or float64; raises where the dtype cannot hold one.
    cdef const double *params(self, bint single) except NULL

# Number of threads a request means: None -> as many as useful for `work` elements; raises for < 1 or non-integers.
cdef int resolve_threads(object n_threads, Py_ssize_t work) except -1
