# The end of every instruction-set module: its functions, gathered in one table and handed out as a capsule.
from cpython.pycapsule cimport PyCapsule_New

cdef extern from "simd.h" nogil:
    const int LANES_F32, LANES_F64
    void rows_times_f32(const float *, Py_ssize_t, const float *, float *, Py_ssize_t, Py_ssize_t) noexcept
    void rows_times_f64(const double *, Py_ssize_t, const double *, double *, Py_ssize_t, Py_ssize_t) noexcept
    void group_gram_f32(const float *const *, const float *const *, Py_ssize_t, int, double *) noexcept
    void group_gram_f64(const double *const *, const double *const *, Py_ssize_t, int, double *) noexcept
    void group_dots_f32(const float *const *, const float *const *, const float *, Py_ssize_t, double *) noexcept
    void group_dots_f64(const double *const *, const double *const *, const double *, Py_ssize_t, double *) noexcept
    void group_add_f32(const float *const *, const double *, float *, Py_ssize_t) noexcept
    void group_add_f64(const double *const *, const double *, double *, Py_ssize_t) noexcept
    void add_rows_f32(const float *, Py_ssize_t, const float *, float *, Py_ssize_t, Py_ssize_t) noexcept
    void add_rows_f64(const double *, Py_ssize_t, const double *, double *, Py_ssize_t, Py_ssize_t) noexcept
    void panel_f32(const float *, Py_ssize_t, Py_ssize_t, const float *, float *, Py_ssize_t, Py_ssize_t, int) noexcept
    void panel_f64(const double *, Py_ssize_t, Py_ssize_t, const double *, double *, Py_ssize_t, Py_ssize_t,
                   int) noexcept
    void transpose_f32(const float *, Py_ssize_t, float *, Py_ssize_t, Py_ssize_t, Py_ssize_t) noexcept
    void transpose_f64(const double *, Py_ssize_t, double *, Py_ssize_t, Py_ssize_t, Py_ssize_t) noexcept
    void sum_panel_f32(const float *, Py_ssize_t, int, double *) noexcept
    void widen_add_f32(const float *, double *, Py_ssize_t) noexcept
    void sparse32_times_f32(const float *, const int *, const int *, Py_ssize_t, const float *, float *, int) noexcept
    void sparse64_times_f32(const float *, const long long *, const long long *, Py_ssize_t, const float *, float *,
                            int) noexcept
    void sparse32_add_f32(const float *, const int *, const int *, Py_ssize_t, const float *, double *, int, Py_ssize_t,
                          Py_ssize_t) noexcept
    void sparse64_add_f32(const float *, const long long *, const long long *, Py_ssize_t, const float *, double *, int,
                          Py_ssize_t, Py_ssize_t) noexcept
    void sum_panel_f64(const double *, Py_ssize_t, int, double *) noexcept
    void widen_add_f64(const double *, double *, Py_ssize_t) noexcept
    void sparse32_times_f64(const double *, const int *, const int *, Py_ssize_t, const double *, double *,
                            int) noexcept
    void sparse64_times_f64(const double *, const long long *, const long long *, Py_ssize_t, const double *, double *,
                            int) noexcept
    void sparse32_add_f64(const double *, const int *, const int *, Py_ssize_t, const double *, double *, int,
                          Py_ssize_t, Py_ssize_t) noexcept
    void sparse64_add_f64(const double *, const long long *, const long long *, Py_ssize_t, const double *, double *,
                          int, Py_ssize_t, Py_ssize_t) noexcept

cdef Table table
table.abi_version = ABI_VERSION
table.n_losses = N_LOSSES
table.losses = losses
table.n_scores = N_SCORES
table.scores = scores

table.rows32.dot = row_dot[float]
table.rows32.axpy = row_axpy[float]
table.rows32.scale = row_scale[float]
table.rows32.total = row_total[float]
table.rows32.weighted_total = row_weighted_total[float]
table.rows32.store = row_store[float]
table.rows32.label_signs = row_label_signs[float]
table.rows32.lanes = LANES_F32
table.rows32.rows_times = rows_times_f32
table.rows32.add_rows = add_rows_f32
table.rows32.group_gram = group_gram_f32
table.rows32.group_dots = group_dots_f32
table.rows32.group_add = group_add_f32
table.rows32.panel = panel_f32
table.rows32.transpose = transpose_f32
table.rows32.sum_panel = sum_panel_f32
table.rows32.widen_add = widen_add_f32
table.rows32.sparse32_times = sparse32_times_f32
table.rows32.sparse64_times = sparse64_times_f32
table.rows32.sparse32_add = sparse32_add_f32
table.rows32.sparse64_add = sparse64_add_f32

table.rows64.dot = row_dot[double]
table.rows64.axpy = row_axpy[double]
table.rows64.scale = row_scale[double]
table.rows64.total = row_total[double]
table.rows64.weighted_total = row_weighted_total[double]
table.rows64.store = row_store[double]
table.rows64.label_signs = row_label_signs[double]
table.rows64.lanes = LANES_F64
table.rows64.rows_times = rows_times_f64
table.rows64.add_rows = add_rows_f64
table.rows64.group_gram = group_gram_f64
table.rows64.group_dots = group_dots_f64
table.rows64.group_add = group_add_f64
table.rows64.panel = panel_f64
table.rows64.transpose = transpose_f64
table.rows64.sum_panel = sum_panel_f64
table.rows64.widen_add = widen_add_f64
table.rows64.sparse32_times = sparse32_times_f64
table.rows64.sparse64_times = sparse64_times_f64
table.rows64.sparse32_add = sparse32_add_f64
table.rows64.sparse64_add = sparse64_add_f64

TABLE = PyCapsule_New(<void *>&table, "fastloss._kernels.Table", NULL)
