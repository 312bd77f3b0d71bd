# Arrays as pointers and strides, and tiles of them in the working dtype; included in dispatch.pyx.
#
# A tile is a contiguous piece of an array.  `load` hands out the array's own memory where it can, else a converted
# copy, so that nothing behind it sees strides, dtypes or byte orders, and no array is ever copied whole.

def as_real(values, str name):
    """The values as an array of real numbers of any dtype; arrays are taken as they are."""
    return _real_array(values, name)


def as_floating(values, str name):
    """The array as float32 or float64 (other real types become float64)."""
    cdef cnp.ndarray array = _real_array(values, name)
    return array if cnp.PyArray_TYPE(array) in (cnp.NPY_FLOAT32, cnp.NPY_FLOAT64) else array.astype(np.float64)


cdef cnp.ndarray _real_array(object values, str name):
    """The values as a numpy array of real numbers; arrays are taken as they are."""
    cdef cnp.ndarray array
    if type(values) is np.ndarray:
        array = values
    else:
        if isinstance(values, np.ma.MaskedArray) and np.ma.is_masked(values):
            raise ValueError(f"{name} has masked entries; fill them, or give those samples weight 0")
        if getattr(values, "requires_grad", False) is True:
            raise TypeError(f"{name} requires a gradient: fastloss.interop.torch has the losses for torch's graph; "
                            f"to leave the graph, pass {name}.detach()")
        try:
            foreign = hasattr(values, "__dlpack__") and not hasattr(values, "__array__")
            array = np.from_dlpack(values) if foreign else np.asarray(values)
        except (ValueError, TypeError, RuntimeError, BufferError) as error:
            kind = ValueError if isinstance(error, ValueError) else TypeError
            raise kind(f"{name} cannot be read as an array: {error}") from error
    if not (cnp.PyArray_ISINTEGER(array) or cnp.PyArray_ISFLOAT(array) or cnp.PyArray_ISBOOL(array)):
        raise TypeError(f"{name} must hold real numbers, got dtype {array.dtype}")
    return array


cdef Input _input(cnp.ndarray array):
    cdef Input view
    view.data = NULL
    if array is None:
        return view
    view.data = <const char *>cnp.PyArray_DATA(array)
    view.row = array.strides[0]
    view.column = array.strides[1] if array.ndim == 2 else 0
    view.type_number = cnp.PyArray_TYPE(array)
    view.swapped = 0 if cnp.PyArray_ISNOTSWAPPED(array) else array.itemsize
    view.aligned = cnp.PyArray_ISALIGNED(array)
    return view


cdef Output _output(cnp.ndarray array):
    cdef Output view
    view.data = NULL
    if array is None:
        return view
    view.data = <char *>cnp.PyArray_DATA(array)
    view.row = array.strides[0]
    view.column = array.strides[1] if array.ndim == 2 else 0
    return view


cdef tuple _shape(cnp.ndarray array):
    return tuple([array.shape[k] for k in range(array.ndim)])


cdef void _extent(cnp.ndarray array, Py_ssize_t *low, Py_ssize_t *high):
    """First byte and one past the last."""
    cdef int k
    low[0] = <Py_ssize_t>cnp.PyArray_DATA(array)
    high[0] = low[0] + cnp.PyArray_ITEMSIZE(array)
    for k in range(array.ndim):
        if array.shape[k] == 0:
            high[0] = low[0]
            return
        if array.strides[k] < 0:
            low[0] += array.strides[k] * (array.shape[k] - 1)
        else:
            high[0] += array.strides[k] * (array.shape[k] - 1)


cdef bint _overlap(cnp.ndarray a, cnp.ndarray b) except -1:
    cdef Py_ssize_t low_a, high_a, low_b, high_b
    _extent(a, &low_a, &high_a)
    _extent(b, &low_b, &high_b)
    if high_a <= low_b or high_b <= low_a:
        return False
    try:
        return np.shares_memory(a, b, max_work=100000)
    except np.exceptions.TooHardError:
        return True


cdef struct Layout:             # what an output must be
    int type_number
    int ndim
    Py_ssize_t shape[2]


cdef Layout _layout(cnp.ndarray like, int ndim, int type_number):
    cdef Layout layout
    layout.type_number = type_number
    layout.ndim = ndim
    layout.shape[0] = like.shape[0]
    layout.shape[1] = like.shape[1] if like.ndim == 2 else 0
    return layout


cdef cnp.ndarray _check_output(object out, str name, Layout wanted, others):
    """The caller's output buffer, or an error that says what is wrong with it."""
    cdef cnp.ndarray array
    cdef bint same
    cdef int k
    if not isinstance(out, np.ndarray):
        raise TypeError(f"{name} must be a numpy array, got {type(out).__name__}")
    array = out
    same = array.ndim == wanted.ndim
    for k in range(wanted.ndim):
        same = same and array.shape[k] == wanted.shape[k]
    if not same:
        expected = tuple([wanted.shape[k] for k in range(wanted.ndim)])
        raise ValueError(f"{name} has shape {_shape(array)}, expected {expected}")
    if cnp.PyArray_TYPE(array) != wanted.type_number or not cnp.PyArray_ISNOTSWAPPED(array):
        raise TypeError(f"{name} has dtype {array.dtype}, expected {_DTYPES[wanted.type_number]}")
    if not cnp.PyArray_ISWRITEABLE(array):
        raise ValueError(f"{name} is read-only")
    if not cnp.PyArray_ISALIGNED(array):
        raise ValueError(f"{name} is not aligned to its dtype")
    for k in range(array.ndim):
        if array.strides[k] == 0 and array.shape[k] > 1:
            raise ValueError(f"{name} has several entries at one address (stride 0)")
    for other_name, other in others:
        if _overlap(array, other):
            raise ValueError(f"{name} shares memory with {other_name}")
    return array


def result_like(out, str name, raw, others):
    """The caller's output buffer after its checks, or a new array in raw's memory order; `raw` is floating."""
    cdef cnp.ndarray like = raw
    return _result(out, name, like, cnp.PyArray_TYPE(like), others)


# ----------------------------------------------------------------------------------------- tiles
cdef void convert(const source *values, Py_ssize_t step, real *tile, Py_ssize_t tile_step, Py_ssize_t n) noexcept nogil:
    """tile = values, `step` bytes apart, aligned or not."""
    cdef const char *at = <const char *>values
    cdef source value
    cdef Py_ssize_t i
    for i in range(n):
        memcpy(&value, at + i * step, sizeof(source))
        tile[i * tile_step] = <real>value


cdef void convert_half(const char *at, Py_ssize_t step, real *tile, Py_ssize_t tile_step, Py_ssize_t n) noexcept nogil:
    """`convert` for float16: sign, 5 bits of exponent, 10 of fraction."""
    cdef uint16_t bits
    cdef int exponent, fraction
    cdef double value
    cdef Py_ssize_t i
    for i in range(n):
        memcpy(&bits, at + i * step, 2)
        exponent = (bits >> 10) & 31
        fraction = bits & 1023
        if exponent == 31:
            value = NAN if fraction else INFINITY
        elif exponent == 0:
            value = ldexp(fraction, -24)
        else:
            value = ldexp(1024 + fraction, exponent - 25)
        tile[i * tile_step] = <real>(-value if bits >> 15 else value)


cdef void gather_swapped(const char *at, int type_number, int size, Py_ssize_t step, real *tile, Py_ssize_t tile_step,
                         Py_ssize_t n) noexcept nogil:
    """`gather` for bytes in the other order, one element at a time."""
    cdef char element[16]
    cdef Py_ssize_t i
    cdef int k
    for i in range(n):
        for k in range(size):
            element[k] = at[i * step + size - 1 - k]
        gather(element, type_number, 0, 0, tile + i * tile_step, 1, 1)


cdef void gather(const char *at, int type_number, int swapped, Py_ssize_t step, real *tile, Py_ssize_t tile_step,
                 Py_ssize_t n) noexcept nogil:
    """`convert` by numpy's type number.  (C's long and long long may both have 64 bits, hence the sizes.)"""
    if swapped > 1:
        gather_swapped(at, type_number, swapped, step, tile, tile_step, n)
    elif type_number == cnp.NPY_FLOAT64:
        convert(<const double *>at, step, tile, tile_step, n)
    elif type_number == cnp.NPY_FLOAT32:
        convert(<const float *>at, step, tile, tile_step, n)
    elif type_number == cnp.NPY_FLOAT16:
        convert_half(at, step, tile, tile_step, n)
    elif type_number == cnp.NPY_LONGDOUBLE:
        convert(<const longdouble *>at, step, tile, tile_step, n)
    elif type_number == cnp.NPY_BOOL or type_number == cnp.NPY_UINT8:
        convert(<const uint8_t *>at, step, tile, tile_step, n)
    elif type_number == cnp.NPY_INT8:
        convert(<const int8_t *>at, step, tile, tile_step, n)
    elif type_number == cnp.NPY_INT16:
        convert(<const int16_t *>at, step, tile, tile_step, n)
    elif type_number == cnp.NPY_UINT16:
        convert(<const uint16_t *>at, step, tile, tile_step, n)
    elif type_number == cnp.NPY_INT or (type_number == cnp.NPY_LONG and sizeof(long) == 4):
        convert(<const int32_t *>at, step, tile, tile_step, n)
    elif type_number == cnp.NPY_UINT or (type_number == cnp.NPY_ULONG and sizeof(long) == 4):
        convert(<const uint32_t *>at, step, tile, tile_step, n)
    elif type_number == cnp.NPY_LONG or type_number == cnp.NPY_LONGLONG:
        convert(<const int64_t *>at, step, tile, tile_step, n)
    else:
        convert(<const uint64_t *>at, step, tile, tile_step, n)


cdef inline int _type_number(real like) noexcept nogil:
    return cnp.NPY_FLOAT32 if real is float else cnp.NPY_FLOAT64


cdef inline bint _packed(Py_ssize_t row, Py_ssize_t column, Py_ssize_t width, Py_ssize_t size) noexcept nogil:
    """Whether consecutive samples stand one behind the other."""
    return row == width * size and (width == 1 or column == size)


cdef const real *load(const Input *view, Py_ssize_t first, Py_ssize_t rows, Py_ssize_t width,
                      real *tile) noexcept nogil:
    """Samples first ... first + rows - 1, contiguous: in place, or gathered into the tile."""
    cdef const char *at = view.data + first * view.row
    cdef Py_ssize_t k
    cdef bint same = view.type_number == _type_number(tile[0]) and view.aligned and not view.swapped
    if same and _packed(view.row, view.column, width, sizeof(real)):
        return <const real *>at
    if same and view.row == sizeof(real) and width > 1:
        transpose(<const real *>at, view.column // <Py_ssize_t>sizeof(real), tile, width, width, rows)
        return tile
    if width == 1:
        gather(at, view.type_number, view.swapped, view.row, tile, 1, rows)
    elif view.row == width * view.column:
        gather(at, view.type_number, view.swapped, view.column, tile, 1, rows * width)
    elif view.row > view.column:
        for k in range(rows):
            gather(at + k * view.row, view.type_number, view.swapped, view.column, tile + k * width, 1, width)
    else:       # column-major: along the columns, where memory is consecutive
        for k in range(width):
            gather(at + k * view.column, view.type_number, view.swapped, view.row, tile + k, width, rows)
    return tile


cdef bint plain(const Input *view, Py_ssize_t size) noexcept nogil:
    """Whether the elements are numbers of the working dtype that can be read where they are."""
    return view.aligned and not view.swapped and view.type_number == (cnp.NPY_FLOAT32 if size == 4 else cnp.NPY_FLOAT64)


cdef void load_lanes(const Input *view, Py_ssize_t first, Py_ssize_t rows, Py_ssize_t width, real *tile,
                     real *staging) noexcept nogil:
    """Samples first ... first + rows - 1 as a tile (width, rows): one output after the other."""
    cdef const char *at = view.data + first * view.row
    cdef Py_ssize_t size = sizeof(real), k
    if plain(view, size) and view.column == size:
        transpose(<const real *>at, view.row // size, tile, rows, rows, width)
    elif plain(view, size) and view.row == size:
        for k in range(width):
            memcpy(tile + k * rows, at + k * view.column, rows * size)
    else:
        transpose(load(view, first, rows, width, staging), width, tile, rows, rows, width)


cdef void scatter_lanes(const real *tile, const Output *view, Py_ssize_t first, Py_ssize_t rows, Py_ssize_t width,
                        bint stream, real *staging) noexcept nogil:
    """A tile (width, rows) to samples first ... of an output; through the staging tile where it is streamed."""
    cdef char *at = view.data + first * view.row
    cdef Py_ssize_t size = sizeof(real), k
    if view.row == size:
        for k in range(width):
            memcpy(at + k * view.column, tile + k * rows, rows * size)
    elif view.column == size and not (stream and view.row == width * size):
        transpose(tile, rows, <real *>at, view.row // size, width, rows)
    else:
        transpose(tile, rows, staging, width, width, rows)
        if view.column == size:
            fastloss_stream(at, <const char *>staging, rows * width * size)
        else:
            scatter(staging, view, first, rows, width)


cdef void scatter(const real *tile, const Output *view, Py_ssize_t first, Py_ssize_t rows,
                  Py_ssize_t width) noexcept nogil:
    """The tile to samples first ... of an output that is not packed."""
    cdef char *at = view.data + first * view.row
    cdef Py_ssize_t i, k
    if view.row == sizeof(real) and width > 1:
        transpose(tile, width, <real *>at, view.column // <Py_ssize_t>sizeof(real), rows, width)
        return
    for i in range(rows):
        for k in range(width):
            (<real *>(at + i * view.row + k * view.column))[0] = tile[i * width + k]
