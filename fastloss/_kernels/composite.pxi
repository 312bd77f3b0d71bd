# Losses made of losses, included in dispatch.pyx.
#
# A composite is a list of terms: the kernels of a loss, its factor, its temperature.  Its own kernels have the block
# signature like all others: they call the terms' kernels on a piece of the block that stays in L1, and add up.
# With a Python function among the terms the piece is the whole block: a call costs as much as thousands of samples.
# Whatever walks over data (dispatch, linear objectives, SGD) therefore takes a composite as it takes any loss, in one
# pass.  They find the terms through `params`: models of one SGD fit differ in that pointer.
#
# Two forms.  A sum applies every term to every element.  With `width` > 0 the block is a tile (rows, width), each term
# belongs to one of its columns, and NaN targets are masked: their elements are 0 and no kernel sees them.

cdef enum:
    PIECE = 256             # elements of a call: four float64 arrays of them are 8 kB
    PIECE_TILES = 6         # numbers that an element of a piece needs, at most
    FORM_ROWS = 0           # of score kernels
    FORM_ROWS_PRODUCT = 1
    FORM_LANES = 2
    FORM_LANES_PRODUCT = 3

cdef struct Term:
    const LossKernels *points
    const ScoreKernels *scores
    const double *params32
    const double *params64
    void *data
    double factor32         # rounded to float32
    double factor64
    double temperature32
    double temperature64
    double level            # added to the loss of every element (of K classes: row) that is not masked
    Py_ssize_t column
    Py_ssize_t K
    const Py_ssize_t *classes   # NULL; or, of a loss over K classes, its columns

cdef struct Composite:
    Py_ssize_t count
    Py_ssize_t width        # 0: a sum
    Term *terms
    bint python             # a term calls a Python function, so that there is one thread ...
    bint stopped            # ... and one failed: what is left of the pass calls nobody any more


# ----------------------------------------------------------------------------------------- pieces
cdef Py_ssize_t room_for_pieces(const Composite *composite, Py_ssize_t n, Py_ssize_t usual, Py_ssize_t tiles,
                                void **room) noexcept nogil:
    """How many elements a piece has: `usual`, for which there is room already, or all, in room that is made here (and
    freed by the caller) for so many tiles of 8 bytes."""
    cdef void *more = NULL
    if composite.python and n > usual:
        more = malloc(n * tiles * sizeof(double))
    if more == NULL:
        return usual
    room[0] = more
    return n


# ----------------------------------------------------------------------------------------- one term
cdef inline real factor_of(const Term *term, real like) noexcept nogil:
    if real is float:
        return <real>term.factor32
    else:
        return <real>term.factor64


cdef inline real temperature_of(const Term *term, real like) noexcept nogil:
    if real is float:
        return <real>term.temperature32
    else:
        return <real>term.temperature64


cdef inline Py_ssize_t within(Py_ssize_t accepted, Py_ssize_t n) noexcept nogil:
    """What a kernel returned, as a number of elements: an own loss may return anything."""
    return accepted if 0 <= accepted <= n else 0


cdef inline Py_ssize_t call_term(const Term *term, bint fisher, const real *y, const real *raw, real *loss, real *grad,
                                 real *hess, Py_ssize_t n) noexcept nogil:
    cdef const LossKernels *points = term.points
    if real is float:
        if fisher:
            points.fisher_f32(y, raw, NULL, NULL, hess, n, term.params32, term.data)
            return n
        return within(points.f32(y, raw, loss, grad, hess, n, term.params32, term.data), n)
    else:
        if fisher:
            points.fisher_f64(y, raw, NULL, NULL, hess, n, term.params64, term.data)
            return n
        return within(points.f64(y, raw, loss, grad, hess, n, term.params64, term.data), n)


cdef inline real *wanted(const real *out, real *tile) noexcept nogil:
    """A tile for what is wanted at `out`."""
    return NULL if out == NULL else tile


cdef inline void add_scaled(real factor, const real *x, real *out, Py_ssize_t n) noexcept nogil:
    if real is float:
        _active.rows32.axpy(factor, x, out, n)
    else:
        _active.rows64.axpy(factor, x, out, n)


cdef inline void collect(real factor, const real *x, real *out, bint first, Py_ssize_t n) noexcept nogil:
    """out = factor * x, or += behind the first term."""
    if out == NULL:
        return
    if first:
        scaled(x, NULL, factor, out, n)
    else:
        add_scaled(factor, x, out, n)


cdef inline const real *cooled(const Term *term, const real *raw, real *tile, Py_ssize_t n) noexcept nogil:
    """raw / temperature."""
    cdef real temperature = temperature_of(term, <real>0)
    cdef Py_ssize_t i
    if temperature == 1:
        return raw
    for i in range(n):
        tile[i] = raw[i] / temperature
    return tile


cdef inline void clear(real *tile, Py_ssize_t n) noexcept nogil:
    if tile != NULL:
        memset(tile, 0, n * sizeof(real))


# ----------------------------------------------------------------------------------------- sums
cdef Py_ssize_t sum_piece(const Composite *composite, bint fisher, const real *y, const real *raw, real *loss,
                          real *grad, real *hess, Py_ssize_t n, real *raw_tile) noexcept nogil:
    """All terms at a piece; raw_tile is the first of four tiles of n elements."""
    cdef real *losses = raw_tile + n
    cdef real *slopes = raw_tile + 2 * n
    cdef real *bends = raw_tile + 3 * n
    cdef real factor, temperature
    cdef const Term *term
    cdef Py_ssize_t k, accepted, refused = n
    cdef bint first = True
    for k in range(composite.count):
        term = &composite.terms[k]
        factor, temperature = factor_of(term, <real>0), temperature_of(term, <real>0)
        if factor == 0:         # the term only says which targets it takes: 0 * inf would be NaN
            accepted = n if fisher else call_term(term, False, y, raw, losses, <real *>NULL, <real *>NULL, n)
        elif first and factor == 1 and temperature == 1:
            accepted = call_term(term, fisher, y, raw, loss, grad, hess, n)
            first = False
        else:
            accepted = call_term(term, fisher, y, cooled(term, raw, raw_tile, n), wanted(loss, losses),
                                 wanted(grad, slopes), wanted(hess, bends), n)
            collect(factor, losses, loss, first, n)
            collect(factor / temperature, slopes, grad, first, n)
            collect(factor / temperature / temperature, bends, hess, first, n)
            first = False
        refused = min(refused, accepted)
        if refused == 0:        # no term refuses an earlier one
            return 0
    if first:
        clear(loss, n)
        clear(grad, n)
        clear(hess, n)
    return refused


cdef inline real *after(real *tile, Py_ssize_t n) noexcept nogil:
    return NULL if tile == NULL else tile + n


cdef Py_ssize_t run_composite(const Composite *composite, bint fisher, const real *y, const real *raw, real *loss,
                              real *grad, real *hess, Py_ssize_t n) noexcept nogil:
    """Returns n, or the first element that is refused."""
    cdef double[PIECE_TILES * PIECE] small
    cdef void *room = small
    cdef Py_ssize_t accepted, size
    if composite.stopped:
        return 0
    size = room_for_pieces(composite, n, PIECE, PIECE_TILES, &room)
    if composite.width > 0:
        accepted = by_columns(composite, fisher, y, raw, loss, grad, hess, n, <real *>room, size)
    else:
        accepted = by_pieces(composite, fisher, y, raw, loss, grad, hess, n, <real *>room, size)
    if room != small:
        free(room)
    if composite.python and accepted != n:
        (<Composite *>composite).stopped = True
    return accepted


cdef Py_ssize_t by_pieces(const Composite *composite, bint fisher, const real *y, const real *raw, real *loss,
                          real *grad, real *hess, Py_ssize_t n, real *room, Py_ssize_t size) noexcept nogil:
    cdef Py_ssize_t at = 0, many, accepted
    while at < n:
        many = min(n - at, size)
        accepted = sum_piece(composite, fisher, y + at, raw + at, after(loss, at), after(grad, at), after(hess, at),
                             many, room)
        if accepted != many:
            return at + accepted
        at += many
    return n


# ----------------------------------------------------------------------------------------- a loss per column
cdef Py_ssize_t by_columns(const Composite *composite, bint fisher, const real *y, const real *raw, real *loss,
                           real *grad, real *hess, Py_ssize_t n, real *room, Py_ssize_t size) noexcept nogil:
    cdef Py_ssize_t rows = n // composite.width, at, k, refused = n
    for k in range(composite.count):
        at = 0
        if composite.terms[k].classes != NULL:
            refused = min(refused, by_classes(composite, &composite.terms[k], y, raw, loss, grad, hess, n, room, size))
            continue
        while at < rows:
            refused = min(refused, column_piece(composite, &composite.terms[k], fisher, y, raw, loss, grad, hess, at,
                                                min(rows - at, size), n, room, size))
            at += size
    return refused


cdef Py_ssize_t column_piece(const Composite *composite, const Term *term, bint fisher, const real *y, const real *raw,
                             real *loss, real *grad, real *hess, Py_ssize_t first, Py_ssize_t rows,
                             Py_ssize_t n, real *y_tile, Py_ssize_t size) noexcept nogil:
    """One column of some rows; returns the first element of the block that is refused, or n."""
    cdef real *raw_tile = y_tile + size
    cdef real *losses = y_tile + 2 * size
    cdef real *slopes = y_tile + 3 * size
    cdef real *bends = y_tile + 4 * size
    cdef Py_ssize_t *place = <Py_ssize_t *>(<double *>y_tile + 5 * size)
    cdef real factor = factor_of(term, <real>0)
    cdef Py_ssize_t i, at, many = 0, accepted
    for i in range(rows):
        at = (first + i) * composite.width + term.column
        y_tile[many], raw_tile[many], place[many] = y[at], raw[at], at
        many += y[at] == y[at]      # no branch on a gap: a third of them cost half of the pass
    if many < rows:
        for i in range(rows):
            at = (first + i) * composite.width + term.column
            if loss != NULL:
                loss[at] = 0
            if grad != NULL:
                grad[at] = 0
            if hess != NULL:
                hess[at] = 0
    if many == 0:           # a user's function is not asked about nothing
        return n
    accepted = call_term(term, fisher, y_tile, raw_tile, losses, wanted(grad, slopes), wanted(hess, bends), many)
    if accepted != many:
        return place[accepted]
    if factor == 0:         # 0 * inf would be NaN
        for i in range(many):
            losses[i] = slopes[i] = bends[i] = 0
    if loss != NULL:
        for i in range(many):
            loss[place[i]] = factor * losses[i] + <real>term.level
    if grad != NULL:
        for i in range(many):
            grad[place[i]] = factor * slopes[i]
    if hess != NULL:
        for i in range(many):
            hess[place[i]] = factor * bends[i]
    return n


# ----------------------------------------------------------------------------------------- classes in columns
cdef Py_ssize_t by_classes(const Composite *composite, const Term *term, const real *y, const real *raw, real *loss,
                           real *grad, real *hess, Py_ssize_t n, real *room, Py_ssize_t size) noexcept nogil:
    """A loss over K classes in K of the columns; returns the first element of the block that is refused, or n."""
    cdef Py_ssize_t rows = n // composite.width, each = 4 * term.K + 2, at = 0, many, refused = n
    cdef void *more = NULL
    many = min(rows, size * PIECE_TILES // each)
    if many == 0:               # not even one row
        many = 1
        more = malloc(each * sizeof(double))
        if more == NULL:
            if grad != NULL:
                memset(grad, 0xff, n * sizeof(real))        # NaN
            return n
        room = <real *>more
    while at < rows and refused == n:
        refused = class_piece(composite, term, y, raw, loss, grad, hess, at, min(rows - at, many), n, room)
        at += many
    free(more)
    return refused


cdef Py_ssize_t class_piece(const Composite *composite, const Term *term, const real *y, const real *raw, real *loss,
                            real *grad, real *hess, Py_ssize_t first, Py_ssize_t rows, Py_ssize_t n,
                            real *y_tile) noexcept nogil:
    """Some rows, gathered into tiles (rows, K).  A sample's loss is put in the first of its columns."""
    cdef Py_ssize_t K = term.K, elements = rows * K, i, k, at, many = 0, accepted
    cdef real *raw_tile = y_tile + elements
    cdef real *slopes = y_tile + 2 * elements
    cdef real *bends = y_tile + 3 * elements
    cdef real *losses = y_tile + 4 * elements
    cdef Py_ssize_t *place = <Py_ssize_t *>(<double *>y_tile + 4 * elements + rows)
    cdef real factor = factor_of(term, <real>0)
    cdef bint known
    for i in range(rows):
        place[many] = (first + i) * composite.width
        known = True
        for k in range(K):
            at = place[many] + term.classes[k]
            y_tile[many * K + k], raw_tile[many * K + k] = y[at], raw[at]
            known = known and y[at] == y[at]
            if loss != NULL:
                loss[at] = 0
            if grad != NULL:
                grad[at] = 0
            if hess != NULL:
                hess[at] = 0
        many += known
    if many == 0:
        return n
    accepted = check_targets(y_tile, many * K)
    if accepted != many * K:
        return place[accepted // K] + term.classes[accepted % K]
    if real is float:
        accepted = term.scores.rows_f32(y_tile, NULL, raw_tile, losses, slopes, wanted(hess, bends), many, K,
                                        term.params32, term.data)
    else:
        accepted = term.scores.rows_f64(y_tile, NULL, raw_tile, losses, slopes, wanted(hess, bends), many, K,
                                        term.params64, term.data)
    accepted = within(accepted, many)
    if accepted != many:
        return place[accepted] + term.classes[0]
    for i in range(many):
        if loss != NULL:
            loss[place[i] + term.classes[0]] = (0 if factor == 0 else factor * losses[i]) + <real>term.level
        if factor == 0:         # 0 * inf would be NaN
            continue
        for k in range(K):
            at = place[i] + term.classes[k]
            if grad != NULL:
                grad[at] = factor * slopes[i * K + k]
            if hess != NULL:
                hess[at] = factor * bends[i * K + k]
    return n


# ----------------------------------------------------------------------------------------- the kernels
cdef Py_ssize_t composite_kernel(const real *y, const real *raw, real *loss, real *grad, real *hess, Py_ssize_t n,
                                 const double *params, void *data) noexcept nogil:
    return run_composite(<const Composite *>params, False, y, raw, loss, grad, hess, n)


cdef Py_ssize_t composite_fisher(const real *y, const real *raw, real *loss, real *grad, real *hess, Py_ssize_t n,
                                 const double *params, void *data) noexcept nogil:
    return run_composite(<const Composite *>params, True, y, raw, <real *>NULL, <real *>NULL, hess, n)


cdef inline scores_f32 scores32(const Term *term, int form) noexcept nogil:
    if form == FORM_ROWS:
        return term.scores.rows_f32
    if form == FORM_ROWS_PRODUCT:
        return term.scores.rows_product_f32
    return term.scores.lanes_f32 if form == FORM_LANES else term.scores.lanes_product_f32


cdef inline scores_f64 scores64(const Term *term, int form) noexcept nogil:
    if form == FORM_ROWS:
        return term.scores.rows_f64
    if form == FORM_ROWS_PRODUCT:
        return term.scores.rows_product_f64
    return term.scores.lanes_f64 if form == FORM_LANES else term.scores.lanes_product_f64


cdef Py_ssize_t add_scores(const Term *term, int form, bint first, const real *y, const Py_ssize_t *label,
                           const real *raw, const real *direction, real *loss, real *grad, real *hess, Py_ssize_t n,
                           Py_ssize_t K, real *memory) noexcept nogil:
    """Add a term; memory holds three tiles and n losses.  Returns n, or the first sample that is refused."""
    cdef Py_ssize_t elements = n * K, accepted
    cdef real *slopes = memory
    cdef real *bends = memory + elements
    cdef real *losses = memory + 3 * elements
    cdef const real *cold = cooled(term, raw, memory + 2 * elements, elements)
    cdef real factor = factor_of(term, <real>0), temperature = temperature_of(term, <real>0)
    if direction != NULL:
        memcpy(bends, direction, elements * sizeof(real))
    if real is float:
        accepted = scores32(term, form)(y, label, cold, wanted(loss, losses), slopes, wanted(hess, bends), n, K,
                                        term.params32, term.data)
    else:
        accepted = scores64(term, form)(y, label, cold, wanted(loss, losses), slopes, wanted(hess, bends), n, K,
                                        term.params64, term.data)
    collect(factor, losses, loss, first, n)
    collect(factor / temperature, slopes, grad, first, elements)
    collect(factor / temperature / temperature, bends, hess, first, elements)
    return within(accepted, n)


cdef Py_ssize_t run_scores(const Composite *composite, int form, const real *y, const Py_ssize_t *label,
                           const real *raw, real *loss, real *grad, real *hess, Py_ssize_t n,
                           Py_ssize_t K) noexcept nogil:
    cdef bint product = form == FORM_ROWS_PRODUCT or form == FORM_LANES_PRODUCT, first = True
    cdef Py_ssize_t k, elements = n * K, refused = n
    cdef real small[PIECE]
    cdef real *memory = small
    cdef real *direction = NULL
    if composite.stopped:
        return 0
    if 4 * elements + n > PIECE:
        memory = <real *>malloc((4 * elements + n) * sizeof(real))
        if memory == NULL:
            memset(grad, 0xff, elements * sizeof(real))        # NaN
            return n
    if product:
        direction = memory + 3 * elements + n
        memcpy(direction, hess, elements * sizeof(real))
    for k in range(composite.count):
        if factor_of(&composite.terms[k], <real>0) != 0:
            refused = min(refused, add_scores(&composite.terms[k], form, first, y, label, raw, direction, loss, grad,
                                              hess, n, K, memory))
            first = False
        if refused == 0:
            break
    if first:
        clear(loss, n)
        clear(grad, elements)
        clear(hess, elements)
    if memory != small:
        free(memory)
    if composite.python and refused != n:
        (<Composite *>composite).stopped = True
    return refused


cdef Py_ssize_t composite_rows(const real *y, const Py_ssize_t *label, const real *raw, real *loss, real *grad,
                               real *hess, Py_ssize_t n, Py_ssize_t K, const double *params,
                               void *data) noexcept nogil:
    return run_scores(<const Composite *>params, FORM_ROWS, y, label, raw, loss, grad, hess, n, K)


cdef Py_ssize_t composite_rows_product(const real *y, const Py_ssize_t *label, const real *raw, real *loss, real *grad,
                                       real *hess, Py_ssize_t n, Py_ssize_t K, const double *params,
                                       void *data) noexcept nogil:
    return run_scores(<const Composite *>params, FORM_ROWS_PRODUCT, y, label, raw, loss, grad, hess, n, K)


cdef Py_ssize_t composite_lanes(const real *y, const Py_ssize_t *label, const real *raw, real *loss, real *grad,
                                real *hess, Py_ssize_t n, Py_ssize_t K, const double *params,
                                void *data) noexcept nogil:
    return run_scores(<const Composite *>params, FORM_LANES, y, label, raw, loss, grad, hess, n, K)


cdef Py_ssize_t composite_lanes_product(const real *y, const Py_ssize_t *label, const real *raw, real *loss,
                                        real *grad, real *hess, Py_ssize_t n, Py_ssize_t K, const double *params,
                                        void *data) noexcept nogil:
    return run_scores(<const Composite *>params, FORM_LANES_PRODUCT, y, label, raw, loss, grad, hess, n, K)


cdef class CompositeKernel(Kernel):
    """Kernels of a loss that is made of losses.

    Parameters
    ----------
    name, target, binary
        As for Kernel.
    terms : list of (kernel, factors, temperatures, columns, level)
        factors and temperatures are pairs, rounded to float32 and float64, NaN where the dtype cannot hold one; level
        is added to the loss of every element that is not masked.
    width : int
        0: a sum. Else the outputs of a sample: each term is the loss of its column, or over K classes that of its K
        columns, and NaN targets are masked.
    any_width : bool
        With width=1, whether y and raw may have any shape: every element is of that one column.
    """
    cdef Composite composite
    cdef LossKernels own
    cdef ScoreKernels own_scores
    cdef list parts
    cdef cnp.ndarray places                     # what `classes` of the terms point to

    def __init__(self, str name, str target, bint binary, list terms, Py_ssize_t width=0, bint any_width=False):
        cdef Term *term
        cdef Py_ssize_t at = 0
        Kernel.__init__(self, name, target, binary, [], [], {})
        self.take_parts([kernel for kernel, *_ in terms])
        self.outputs = 0 if any_width else width
        self.composite.width = width
        self.composite.terms = <Term *>malloc(max(len(terms), 1) * sizeof(Term))
        if self.composite.terms == NULL:
            raise MemoryError
        self.composite.count = len(terms)
        memset(self.composite.terms, 0, len(terms) * sizeof(Term))
        self.places = np.array([column for *_, columns, _ in terms for column in columns], np.intp)
        for k, (kernel, factors, temperatures, columns, level) in enumerate(terms):
            term = &self.composite.terms[k]
            term.factor32, term.factor64 = factors
            term.temperature32, term.temperature64 = temperatures
            term.column, term.level, term.K = columns[0], level, len(columns)
            if width > 0 and (<Kernel?>kernel).scores:
                term.classes = <const Py_ssize_t *>cnp.PyArray_DATA(self.places) + at
            at += len(columns)
        self.own.f32, self.own.f64 = composite_kernel[float], composite_kernel[double]
        self.own_scores.rows_f32, self.own_scores.rows_f64 = composite_rows[float], composite_rows[double]
        self.own_scores.rows_product_f32 = composite_rows_product[float]
        self.own_scores.rows_product_f64 = composite_rows_product[double]
        self.own_scores.lanes_f32, self.own_scores.lanes_f64 = composite_lanes[float], composite_lanes[double]
        self.own_scores.lanes_product_f32 = composite_lanes_product[float]
        self.own_scores.lanes_product_f64 = composite_lanes_product[double]

    def __dealloc__(self):
        free(self.composite.terms)

    cdef int take_parts(self, list parts) except -1:
        self.parts = parts
        self.python = self.composite.python = any([(<Kernel?>part).python for part in parts])
        return 0

    cdef CompositeKernel copy(self, list parts):
        """The same terms with other kernels."""
        cdef CompositeKernel other = CompositeKernel.__new__(CompositeKernel)
        cdef Py_ssize_t size = max(self.composite.count, 1) * sizeof(Term)
        Kernel.__init__(other, self.name, self.target, self.binary, [], [], {})
        other.take_parts(parts)
        other.places = self.places
        other.outputs, other.own, other.own_scores = self.outputs, self.own, self.own_scores
        other.scores, other.soft_targets, other.signed_weights = self.scores, self.soft_targets, self.signed_weights
        other.class_weight, other.ignore_index = self.class_weight, self.ignore_index
        other.composite.terms = <Term *>malloc(size)
        if other.composite.terms == NULL:
            raise MemoryError
        other.composite.count, other.composite.width = self.composite.count, self.composite.width
        memcpy(other.composite.terms, self.composite.terms, size)
        return other

    cdef Kernel session(self):
        parts = [(<Kernel>part).session() for part in self.parts]
        return self if all(map(operator.is_, parts, self.parts)) else self.copy(parts)

    cdef Py_ssize_t block_rows(self, Py_ssize_t width) noexcept:
        cdef Py_ssize_t rows = Kernel.block_rows(self, width)
        for part in self.parts:
            rows = max(rows, (<Kernel>part).block_rows(width))
        return rows

    cdef bint failed(self) noexcept:
        for part in self.parts:
            if (<Kernel>part).failed():
                return True
        return False

    cdef int raise_failure(self) except -1:
        for part in self.parts:
            (<Kernel>part).raise_failure()
        return 0

    cdef const LossKernels *kernels(self):
        cdef bint fisher = True
        cdef Py_ssize_t k
        for k in range(self.composite.count):
            self.composite.terms[k].data = (<Kernel>self.parts[k]).data
            if self.composite.terms[k].classes != NULL:     # its exact hessian is also the expected one, if it has that
                self.composite.terms[k].scores = (<Kernel>self.parts[k]).score_kernels()
                continue
            self.composite.terms[k].points = (<Kernel>self.parts[k]).kernels()
            fisher = fisher and self.composite.terms[k].points.fisher_f64 != NULL
        self.own.fisher_f32, self.own.fisher_f64 = NULL, NULL
        if fisher:
            self.own.fisher_f32, self.own.fisher_f64 = composite_fisher[float], composite_fisher[double]
        return &self.own

    cdef const ScoreKernels *score_kernels(self):
        cdef Py_ssize_t k
        for k in range(self.composite.count):
            self.composite.terms[k].scores = (<Kernel>self.parts[k]).score_kernels()
            self.composite.terms[k].data = (<Kernel>self.parts[k]).data
            if self.composite.terms[k].scores.lanes_f64 == NULL:     # an own loss takes rows
                self.own_scores.lanes_f32, self.own_scores.lanes_f64 = NULL, NULL
        return &self.own_scores

    cdef const double *params(self, bint single) except NULL:
        cdef Kernel part
        cdef Term *term
        cdef Py_ssize_t k
        dtype = "float32" if single else "float64"
        if self.scores:     # SGD asks the first of its models for kernels, and all of them for parameters
            self.score_kernels()
        else:
            self.kernels()
        for k in range(self.composite.count):
            part, term = self.parts[k], &self.composite.terms[k]
            factor = term.factor32 if single else term.factor64
            temperature = term.temperature32 if single else term.temperature64
            if factor != factor or temperature != temperature:
                raise ValueError(
                    f"{self.name}: the factor or temperature of {part.name} is out of the range of {dtype}"
                )
            if single:
                term.params32 = part.params(True)
            else:
                term.params64 = part.params(False)
        return <const double *>&self.composite

    cdef Kernel refusing(self, double y, Py_ssize_t column):
        """The part that does not take this target, for the error message."""
        cdef Kernel part
        cdef double raw = 0, loss
        cdef Py_ssize_t k
        for part in self.parts:
            if part.failed():
                return part.refusing(y, column)
        for k in range(self.composite.count):
            part = self.parts[k]
            if self.composite.terms[k].classes != NULL:
                if column in [self.composite.terms[k].classes[c] for c in range(self.composite.terms[k].K)]:
                    return Kernel(part.name, "targets that are finite and >= 0", False, [], [], {})
                continue
            if self.composite.width > 1 and self.composite.terms[k].column != column:
                continue
            if part.kernels().f64(&y, &raw, &loss, NULL, NULL, 1, part.params(False), part.data) != 1:
                return part.refusing(y, column)
        return self
