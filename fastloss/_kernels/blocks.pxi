# One block of samples: targets or labels in, the kernel, weights; included in dispatch.pyx.
#
# `compute` is the meeting point of everything that evaluates a loss: it takes raw predictions that are already a tile
# (from an array, or from a product that a linear objective just formed) and leaves losses, gradients and hessians in
# tiles; `weigh` then applies weights and the reduction's factor.  The layout of a tile is (rows, width), or, for losses
# over few classes (job.lanes), class-major: (width, rows).


# ----------------------------------------------------------------------------------------- calls by dtype
cdef inline Py_ssize_t call(void *kernel, const Job *job, const real *y, const real *raw, real *loss, real *grad,
                            real *hess, Py_ssize_t n) noexcept nogil:
    if real is float:
        return (<kernel_f32>kernel)(y, raw, loss, grad, hess, n, job.params, job.data)
    else:
        return (<kernel_f64>kernel)(y, raw, loss, grad, hess, n, job.params, job.data)


cdef inline Py_ssize_t call_scores(const Job *job, const real *y, const Py_ssize_t *label, const real *raw, real *loss,
                                   real *grad, real *hess, Py_ssize_t n) noexcept nogil:
    if real is float:
        return (<scores_f32>job.kernel)(y, label, raw, loss, grad, hess, n, job.width, job.params, job.data)
    else:
        return (<scores_f64>job.kernel)(y, label, raw, loss, grad, hess, n, job.width, job.params, job.data)


cdef inline double total(const real *values, const double *weights, Py_ssize_t n) noexcept nogil:
    if real is float:
        return _active.rows32.total(values, n) if weights == NULL else _active.rows32.weighted_total(values, weights, n)
    else:
        return _active.rows64.total(values, n) if weights == NULL else _active.rows64.weighted_total(values, weights, n)


cdef inline void scaled(const real *values, const double *weights, double factor, real *out,
                        Py_ssize_t n) noexcept nogil:
    if real is float:
        _active.rows32.store(values, weights, factor, out, n)
    else:
        _active.rows64.store(values, weights, factor, out, n)


cdef inline int label_signs(const real *y, Py_ssize_t n) noexcept nogil:
    if real is float:
        return _active.rows32.label_signs(y, n)
    else:
        return _active.rows64.label_signs(y, n)


cdef inline void transpose(const real *tile, Py_ssize_t ld_from, real *to, Py_ssize_t ld_to, Py_ssize_t rows,
                           Py_ssize_t columns) noexcept nogil:
    if real is float:
        _active.rows32.transpose(tile, ld_from, to, ld_to, rows, columns)
    else:
        _active.rows64.transpose(tile, ld_from, to, ld_to, rows, columns)


# ----------------------------------------------------------------------------------------- scratch memory
cdef inline Py_ssize_t rounded(Py_ssize_t n) noexcept nogil:
    """Up to whole cache lines of float32."""
    return (n + 15) & ~<Py_ssize_t>15


cdef Py_ssize_t scratch_bytes(const Job *job, Py_ssize_t size) noexcept nogil:
    """What `lay_out` needs for a block; `size` is that of the working dtype."""
    cdef Py_ssize_t elements = rounded(job.rows_per_block * job.width), rows = rounded(job.rows_per_block)
    if job.scores:
        return elements * TILES * size + rows * (size + sizeof(double) + sizeof(Py_ssize_t))
    return elements * (TILES * size + <Py_ssize_t>sizeof(double))


cdef void lay_out(Scratch *scratch, const Job *job, char *memory, real like) noexcept nogil:
    """Give every tile its place in memory of scratch_bytes bytes."""
    cdef Py_ssize_t elements = rounded(job.rows_per_block * job.width), rows = rounded(job.rows_per_block)
    cdef real *at = <real *>memory
    scratch.y, scratch.raw, scratch.grad = at, at + elements, at + 2 * elements
    scratch.hess, scratch.staging = at + 3 * elements, at + 4 * elements
    at += TILES * elements
    scratch.loss = at if job.scores else scratch.staging
    at += rows if job.scores else 0
    scratch.weight = <double *>at
    scratch.label = <Py_ssize_t *>(scratch.weight + rows)
    scratch.weights = NULL


# ----------------------------------------------------------------------------------------- targets, labels, weights
cdef Py_ssize_t read_labels(const Job *job, Py_ssize_t first, Py_ssize_t rows, Scratch *scratch) noexcept nogil:
    """Classes of the block's samples, or IGNORED; returns the first sample whose label is neither, or rows."""
    cdef const double *values = load(&job.y, first, rows, 1, scratch.weight)
    cdef Py_ssize_t i, label
    for i in range(rows):
        # a comparison with NaN is false; integers beyond 2^53 are no classes, so that a double holds all that matter
        if values[i] >= 0 and values[i] < job.width:
            label = <Py_ssize_t>values[i]
            if <double>label != values[i]:
                return i
            scratch.label[i] = IGNORED if job.has_ignored and values[i] == job.ignored else label
        elif job.has_ignored and values[i] == job.ignored:
            scratch.label[i] = IGNORED
        else:
            return i
    return rows


cdef Py_ssize_t check_targets(const real *y, Py_ssize_t n) noexcept nogil:
    """The first element that is not a finite number >= 0, or n."""
    cdef Py_ssize_t i
    cdef int bad = 0
    for i in range(n):
        bad |= 1 - ((y[i] >= 0) & (y[i] - y[i] == 0))
    if bad:
        for i in range(n):
            if not (y[i] >= 0 and y[i] - y[i] == 0):
                return i
    return n


cdef inline bint is_weighted(const Job *job) noexcept nogil:
    return job.weight.data != NULL or job.class_weight != NULL or job.has_ignored


cdef const double *score_weights(const Job *job, Py_ssize_t first, Py_ssize_t rows, const real *y,
                                 Scratch *scratch) noexcept nogil:
    """w * class_weight[label], w * sum_c class_weight_c y_c for targets, 0 for ignored labels; NULL: all 1.
    In float64, in a tile of their own where anything had to be multiplied."""
    cdef const double *given = NULL
    cdef double *weights = scratch.weight
    cdef double factor
    cdef Py_ssize_t i
    if not is_weighted(job):
        return NULL
    if job.weight.data != NULL:
        given = load(&job.weight, first, rows, 1, weights)
        if job.class_weight == NULL and not job.has_ignored:
            return given
    for i in range(rows):
        factor = 1 if given == NULL else given[i]
        if y != NULL:
            factor = factor * mass_of(job.class_weight, y + i * job.width, job.width)
        elif scratch.label[i] == IGNORED:
            factor = 0
            scratch.label[i] = 0        # kernels get classes only
        elif job.class_weight != NULL:
            factor = factor * job.class_weight[scratch.label[i]]
        weights[i] = factor
    return weights


cdef double mass_of(const double *class_weight, const real *y, Py_ssize_t K) noexcept nogil:
    cdef double mass = 0
    cdef Py_ssize_t k
    for k in range(K):
        mass += class_weight[k] * y[k]
    return mass


cdef const double *block_weights(const Job *job, Py_ssize_t first, Py_ssize_t rows, bint each,
                                 double *tile) noexcept nogil:
    """Weights of the block's samples, or (each) of its elements; NULL where none are given.  In float64 for every
    working dtype: weight / total is a float32 also where the two are not."""
    cdef const double *weights
    cdef Py_ssize_t i, k
    if job.weight.data == NULL:
        return NULL
    if not each or job.width == 1:
        return load(&job.weight, first, rows, 1, tile)
    # From the end, so that a sample's weight is read before its place is overwritten.
    weights = load(&job.weight, first, rows, 1, tile)
    for i in range(rows - 1, -1, -1):
        for k in range(job.width - 1, -1, -1):
            tile[i * job.width + k] = weights[i]
    return tile


# ----------------------------------------------------------------------------------------- compute, weigh
cdef Py_ssize_t compute(const Job *job, Py_ssize_t first, Py_ssize_t rows, const real *raw, real *loss, real *grad,
                        real *hess, Scratch *scratch, ChunkResult *result) noexcept nogil:
    """Losses, gradients, hessians of a block whose raw predictions are the tile `raw`; what is NULL is not wanted.
    Returns the number of elements, or the index of the first refused one.  Also finds the weights and, where the
    losses are not wanted per sample, adds up their total."""
    if job.scores:
        return compute_scores(job, first, rows, raw, loss, grad, hess, scratch, result)
    return compute_points(job, first, rows, raw, loss, grad, hess, scratch, result)


cdef inline Py_ssize_t refuse(ChunkResult *result, Py_ssize_t returned, Py_ssize_t asked) noexcept nogil:
    """The sample a kernel refused; the first, where it did not say which."""
    result.returned, result.asked = returned, asked
    return returned if 0 <= returned < asked else 0


cdef Py_ssize_t compute_points(const Job *job, Py_ssize_t first, Py_ssize_t rows, const real *raw, real *loss,
                               real *grad, real *hess, Scratch *scratch, ChunkResult *result) noexcept nogil:
    cdef Py_ssize_t n = rows * job.width, accepted, i
    cdef const real *y = load(&job.y, first, rows, job.width, <real *>scratch.y)
    accepted = call(job.kernel, job, y, raw, loss, grad,
                    NULL if job.fisher != NULL or job.hessian_constant >= 0 else hess, n)
    if accepted != n:
        return refuse(result, accepted, n)
    if job.binary:
        result.signs |= label_signs(y, n)
    scratch.weights = block_weights(job, first, rows, True, scratch.weight)
    if hess != NULL:
        if job.fisher != NULL:
            call(job.fisher, job, y, raw, NULL, NULL, hess, n)
        elif job.hessian_constant >= 0:
            for i in range(n):
                hess[i] = <real>job.hessian_constant
    if loss != NULL and job.loss.data == NULL:
        result.total += total(loss, scratch.weights, n)
    if loss != NULL and job.column_totals != NULL:
        add_columns(y, loss, scratch.weights, rows, job.width, result.columns)
    return n


cdef void add_columns(const real *y, const real *loss, const double *weights, Py_ssize_t rows, Py_ssize_t width,
                      double *sums) noexcept nogil:
    """Add weight * loss, and the weights of known targets, to the sums of each column."""
    cdef double weight = 1
    cdef Py_ssize_t i, k
    for i in range(rows):
        for k in range(width):
            if weights != NULL:
                weight = weights[i * width + k]
            if weight != 0 and y[i * width + k] == y[i * width + k]:
                sums[k] += weight * loss[i * width + k]
                sums[width + k] += weight


cdef Py_ssize_t compute_scores(const Job *job, Py_ssize_t first, Py_ssize_t rows, const real *raw, real *loss,
                               real *grad, real *hess, Scratch *scratch, ChunkResult *result) noexcept nogil:
    cdef Py_ssize_t n = rows * job.width, K = job.width, accepted, i
    cdef const real *y = NULL
    cdef const real *targets = NULL
    cdef bint constant = job.hessian_constant >= 0
    result.asked = 0
    if job.soft:
        targets = load(&job.y, first, rows, K, <real *>scratch.staging)
        accepted = check_targets(targets, n)
        if accepted != n:
            return accepted
        y = targets
        if job.lanes:
            transpose(targets, K, <real *>scratch.y, rows, rows, K)
            y = <real *>scratch.y
    elif job.y.data != NULL:
        accepted = read_labels(job, first, rows, scratch)
        if accepted != rows:
            return accepted * K
    scratch.weights = score_weights(job, first, rows, targets, scratch)
    accepted = call_scores(job, y, NULL if job.soft or job.y.data == NULL else scratch.label, raw, loss, grad,
                           NULL if constant else hess, rows)
    if accepted != rows:
        return refuse(result, accepted, rows) * K
    if hess != NULL and constant:
        for i in range(n):
            hess[i] = <real>job.hessian_constant
    if loss != NULL and job.loss.data == NULL and job.lanes:
        result.total += total(loss, scratch.weights, rows)
    elif loss != NULL and job.loss.data == NULL:    # one by one: the sum then does not depend on the block's length
        for i in range(rows):
            result.total += total(loss + i, NULL if scratch.weights == NULL else scratch.weights + i, 1)
    return n


cdef void weigh(const Job *job, const Scratch *scratch, real *tile, Py_ssize_t rows) noexcept nogil:
    """tile *= factor * weight, in place; exactly 0 where the weight is."""
    cdef const double *weights = scratch.weights
    cdef Py_ssize_t r
    if weights == NULL and job.factor == 1.0:
        return
    if weights == NULL or not job.scores:
        scaled(tile, weights, job.factor, tile, rows * job.width)
    elif job.lanes:
        for r in range(job.width):
            scaled(tile + r * rows, weights, job.factor, tile + r * rows, rows)
    else:
        for r in range(rows):
            if weights[r] == 0:
                memset(tile + r * job.width, 0, job.width * sizeof(real))
            else:
                scaled(tile + r * job.width, NULL, job.factor * weights[r], tile + r * job.width, job.width)


# ----------------------------------------------------------------------------------------- one block of arrays
cdef inline real *_direct(const Output *view, Py_ssize_t first, Py_ssize_t width, real *tile) noexcept nogil:
    """Where a packed output holds the block, or NULL."""
    if _packed(view.row, view.column, width, sizeof(real)):
        return <real *>(view.data + first * view.row)
    return NULL


cdef void deliver(real *tile, const double *weights, double factor, const Output *view, Py_ssize_t first,
                  Py_ssize_t rows, Py_ssize_t width, bint stream) noexcept nogil:
    """factor * weights * tile to the output, for weights of the tile's elements."""
    cdef real *out = _direct(view, first, width, tile)
    if out != NULL and not stream:
        scaled(tile, weights, factor, out, rows * width)
        return
    scaled(tile, weights, factor, tile, rows * width)
    put(tile, view, first, rows, width, stream)


cdef void put(const real *tile, const Output *view, Py_ssize_t first, Py_ssize_t rows, Py_ssize_t width,
              bint stream) noexcept nogil:
    """The tile to the output."""
    cdef real *out = <real *>_direct(view, first, width, <real *>tile)
    if out == NULL:
        scatter(tile, view, first, rows, width)
    elif stream:
        fastloss_stream(<char *>out, <const char *>tile, rows * width * <Py_ssize_t>sizeof(real))
    elif out != tile:
        memcpy(out, tile, rows * width * sizeof(real))


cdef void add_outputs(real *tile, Py_ssize_t rows, Py_ssize_t width) noexcept nogil:
    """Sum each sample's outputs, in place: tile[i] = sum_k tile[i, k]."""
    cdef double value
    cdef Py_ssize_t i, k
    for i in range(rows):
        value = 0
        for k in range(width):
            value += tile[i * width + k]
        tile[i] = <real>value


cdef Py_ssize_t run_block(const Job *job, Py_ssize_t first, Py_ssize_t rows, Scratch *scratch, ChunkResult *result,
                          real like) noexcept nogil:
    """One block of samples; returns the first refused element of the block, or the number of elements."""
    cdef Py_ssize_t width = job.width, n = rows * width, accepted
    cdef real *loss = NULL
    cdef real *grad = NULL
    cdef real *hess = NULL
    cdef const double *weights
    cdef const real *raw = load(&job.raw, first, rows, width, <real *>scratch.raw)
    cdef bint direct = job.weight.data == NULL and job.factor == 1.0 and not job.stream
    if job.want & WANT_LOSS:
        loss = <real *>scratch.loss
    if job.want & WANT_GRADIENT:
        grad = _direct(&job.gradient, first, width, loss) if direct else NULL
        if grad == NULL:
            grad = <real *>scratch.grad
    if job.want & WANT_HESSIAN:
        hess = <real *>scratch.hess
    accepted = compute_points(job, first, rows, raw, loss, grad, hess, scratch, result)
    if accepted != n:
        return accepted
    weights = scratch.weights
    if hess != NULL:
        deliver(hess, weights, job.factor, &job.hessian, first, rows, width, job.stream)
    if grad == <real *>scratch.grad:
        deliver(grad, weights, job.factor, &job.gradient, first, rows, width, job.stream)
    if loss != NULL and job.loss.data != NULL:
        if width > 1:
            add_outputs(loss, rows, width)
            weights = block_weights(job, first, rows, False, scratch.weight)
        deliver(loss, weights, 1.0, &job.loss, first, rows, 1, job.stream)
    return n


cdef Py_ssize_t run_score_block(const Job *job, Py_ssize_t first, Py_ssize_t rows, Scratch *scratch,
                                ChunkResult *result, real like) noexcept nogil:
    """`run_block` for losses over K scores."""
    cdef Py_ssize_t K = job.width, n = rows * K, accepted
    cdef real *loss = <real *>scratch.loss if job.want & WANT_LOSS else NULL
    cdef real *hess = <real *>scratch.hess if job.want & WANT_HESSIAN else NULL
    cdef real *grad = <real *>scratch.grad
    cdef const real *raw = <const real *>scratch.raw
    if job.lanes:
        load_lanes(&job.raw, first, rows, K, <real *>scratch.raw, <real *>scratch.staging)
    else:
        raw = load(&job.raw, first, rows, K, <real *>scratch.raw)
        if job.want & WANT_GRADIENT and not job.stream and _direct(&job.gradient, first, K, grad) != NULL:
            grad = _direct(&job.gradient, first, K, grad)
    # The next block's scores, while this one is computed: 1e6 x 10 float64 2.21 -> 2.03 ns per score, float32 1.37 ->
    # 1.21.  Long rows are streams that the hardware follows by itself.
    if job.lanes and job.raw.row == K * <Py_ssize_t>sizeof(real) and first + rows < job.n:
        fetch(job.raw.data + (first + rows) * job.raw.row, min(rows, job.n - first - rows) * job.raw.row)
    accepted = compute_scores(job, first, rows, raw, loss, grad, hess, scratch, result)
    if accepted != n:
        return accepted
    if job.want & WANT_GRADIENT:
        weigh(job, scratch, grad, rows)
        put_scores(job, grad, &job.gradient, first, rows, <real *>scratch.staging)
    if job.want & WANT_HESSIAN:
        weigh(job, scratch, hess, rows)
        put_scores(job, hess, &job.hessian, first, rows, <real *>scratch.staging)
    if loss != NULL and job.loss.data != NULL:
        deliver(loss, scratch.weights, 1.0, &job.loss, first, rows, 1, job.stream)
    return n


cdef void put_scores(const Job *job, const real *tile, const Output *view, Py_ssize_t first, Py_ssize_t rows,
                     real *staging) noexcept nogil:
    if job.lanes:
        scatter_lanes(tile, view, first, rows, job.width, job.stream, staging)
    else:
        put(tile, view, first, rows, job.width, job.stream)


# ----------------------------------------------------------------------------------------- chunks
cdef void run_chunk(const Job *job, Py_ssize_t first, Py_ssize_t last, char *memory, ChunkResult *result,
                    real like) noexcept nogil:
    """The blocks of one chunk, in order; `memory` is NULL where a block's tiles are at home on the stack."""
    cdef double on_stack[(TILES + 1) * BLOCK]
    cdef Scratch scratch
    cdef Py_ssize_t at = first, rows, done
    result.total = 0
    result.refused = -1
    result.signs = 0
    lay_out(&scratch, job, <char *>on_stack if memory == NULL else memory, like)
    while at < last:
        rows = min(job.rows_per_block, last - at)
        if job.scores:
            done = run_score_block(job, at, rows, &scratch, result, like)
        else:
            done = run_block(job, at, rows, &scratch, result, like)
        if done != rows * job.width:
            result.refused = at * job.width + done
            break
        at += rows
    if job.stream:
        fastloss_stream_end()


cdef inline bint no_weight(const Job *job, double weight) noexcept nogil:
    return not ((weight >= 0 or job.signed_weights) and weight - weight == 0)


cdef void sum_weights(const Job *job, Py_ssize_t first, Py_ssize_t last, char *memory, ChunkResult *result,
                      real like) noexcept nogil:
    """Sum of the weights of one chunk, and the first that is not a weight (or label that is none)."""
    cdef double on_stack[(TILES + 1) * BLOCK]
    cdef Scratch scratch
    cdef const double *weights
    cdef Py_ssize_t at = first, rows, i
    cdef int bad
    result.total = 0
    result.refused = -1
    result.signs = 0
    result.bad_weight = False
    lay_out(&scratch, job, <char *>on_stack if memory == NULL else memory, like)
    while at < last and result.refused < 0:
        rows = min(job.rows_per_block, last - at)
        if job.weight.data != NULL:
            weights = load(&job.weight, at, rows, 1, scratch.weight)
            bad = 0
            for i in range(rows):
                bad |= no_weight(job, weights[i])
            if bad:
                result.bad_weight = True
                for i in range(rows):
                    if no_weight(job, weights[i]):
                        result.refused = (at + i) * job.width
                        return
        weights = weights_alone(job, at, rows, &scratch, result, like)
        if weights != NULL:
            result.total += total(weights, NULL, rows)
        elif result.refused < 0:
            result.total += rows
        at += rows


cdef const double *weights_alone(const Job *job, Py_ssize_t first, Py_ssize_t rows, Scratch *scratch,
                                 ChunkResult *result, real like) noexcept nogil:
    """The samples' weights (NULL: all 1) before anything else of the block is looked at; result.refused is set where a
    label or target is none."""
    cdef const real *targets = NULL
    cdef Py_ssize_t accepted
    result.asked = 0
    if not job.scores or (job.class_weight == NULL and not job.has_ignored and not job.look):
        return block_weights(job, first, rows, False, scratch.weight)
    if job.soft:
        targets = load(&job.y, first, rows, job.width, <real *>scratch.staging)
        accepted = check_targets(targets, rows * job.width)
        if accepted != rows * job.width:
            result.refused = first * job.width + accepted
            return NULL
    else:
        accepted = read_labels(job, first, rows, scratch)
        if accepted != rows:
            result.refused = (first + accepted) * job.width
            return NULL
    return score_weights(job, first, rows, targets, scratch)


cdef void run_one(const Job *job, bint single, bint only_weights, Py_ssize_t first, Py_ssize_t last, char *memory,
                  ChunkResult *result) noexcept nogil:
    if only_weights:
        if single:
            sum_weights(job, first, last, memory, result, <float>0)
        else:
            sum_weights(job, first, last, memory, result, <double>0)
    elif single:
        run_chunk(job, first, last, memory, result, <float>0)
    else:
        run_chunk(job, first, last, memory, result, <double>0)
