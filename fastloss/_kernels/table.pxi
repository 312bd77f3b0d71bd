# The end of every instruction-set module: its functions, gathered in one table and handed out as a capsule.
from cpython.pycapsule cimport PyCapsule_New

cdef Table table
table.abi_version = ABI_VERSION
table.n_losses = N_LOSSES
table.losses = losses

table.rows32.dot = row_dot[float]
table.rows32.axpy = row_axpy[float]
table.rows32.scale = row_scale[float]
table.rows32.total = row_total[float]
table.rows32.weighted_total = row_weighted_total[float]
table.rows32.store = row_store[float]
table.rows32.label_signs = row_label_signs[float]

table.rows64.dot = row_dot[double]
table.rows64.axpy = row_axpy[double]
table.rows64.scale = row_scale[double]
table.rows64.total = row_total[double]
table.rows64.weighted_total = row_weighted_total[double]
table.rows64.store = row_store[double]
table.rows64.label_signs = row_label_signs[double]

TABLE = PyCapsule_New(<void *>&table, "fastloss._kernels.Table", NULL)
