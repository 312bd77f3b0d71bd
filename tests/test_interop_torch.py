"""fastloss.interop.torch: the graph gets the kernels' numbers, without copies; what it cannot give is refused."""

import pickle
import re
import weakref
from pathlib import Path

import numpy as np
import pytest

import fastloss

torch = pytest.importorskip("torch", reason="torch is not installed")
interop = pytest.importorskip("fastloss.interop.torch")
Loss, loss = interop.Loss, interop.loss
functional = torch.nn.functional
DTYPES = [torch.float32, torch.float64]
POINTWISE = ["squared_error", "huber", "log_cosh", "quantile", "log_loss", "squared_hinge", "poisson"]
SCORES = ["cross_entropy", "multiclass_focal", "multiclass_hinge", "sparsemax", "entmax15"]


def arrays(name, n=40, dtype=torch.float64, width=None, seed=0):
    """(raw that requires a gradient, y, weights)."""
    rng = np.random.default_rng(seed)
    scores = fastloss.get_loss(name).kind == "multiclass"
    width = 4 if scores else width
    raw = torch.from_numpy(rng.normal(size=n if width is None else (n, width))).to(dtype).requires_grad_()
    if scores:
        y = torch.from_numpy(rng.integers(0, 4, n))
    else:
        shape = tuple(raw.shape)
        binary = fastloss.get_loss(name).kind == "binary"
        y = torch.from_numpy(rng.integers(0, 2, shape) if binary else rng.gamma(2.0, size=shape)).to(dtype)
    return raw, y, torch.from_numpy(rng.uniform(0, 2, n)).to(dtype)


# numbers --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("name", [*POINTWISE, *SCORES])
def test_gradcheck(name, reduction, weighted):
    raw, y, w = arrays(name, n=12)
    assert torch.autograd.gradcheck(lambda x: loss(name, x, y, w if weighted else None, reduction), raw, eps=1e-6)


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", [*POINTWISE, *SCORES])
def test_same_bits_as_the_kernels(name, dtype, reduction):
    raw, y, w = arrays(name, dtype=dtype)
    value = loss(name, raw, y, w, reduction)
    value.sum().backward()
    arguments = y.numpy(), raw.detach().numpy(), w.numpy()
    expected, gradient = fastloss.loss_gradient(name, *arguments, reduction=reduction)
    np.testing.assert_array_equal(value.detach().numpy(), np.asarray(expected, raw.detach().numpy().dtype))
    np.testing.assert_array_equal(raw.grad.numpy(), gradient)
    assert value.dtype == raw.grad.dtype == dtype


PEERS = {
    "squared_error": (lambda x, y, r: 0.5 * functional.mse_loss(x, y, reduction=r), {}),
    "absolute_error": (lambda x, y, r: functional.l1_loss(x, y, reduction=r), {}),
    "huber": (lambda x, y, r: functional.huber_loss(x, y, delta=0.7, reduction=r), {"delta": 0.7}),
    "poisson": (lambda x, y, r: functional.poisson_nll_loss(x, y, reduction=r), {}),
    "log_loss": (
        lambda x, y, r: functional.binary_cross_entropy_with_logits(x, y, pos_weight=torch.tensor(3.0), reduction=r),
        {"pos_weight": 3.0},
    ),
    "cross_entropy": (
        lambda x, y, r: functional.cross_entropy(x, y, label_smoothing=0.1, reduction=r),
        {"label_smoothing": 0.1},
    ),
}


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", PEERS)
def test_torchs_own(name, dtype, reduction):
    function, params = PEERS[name]
    raw, y, _ = arrays(name, n=500, dtype=dtype)
    theirs = raw.detach().clone().requires_grad_()
    ours, expected = loss(name, raw, y, None, reduction, **params), function(theirs, y, reduction)
    outer = torch.linspace(0.5, 2, 500, dtype=dtype) if reduction == "none" else torch.tensor(1.5, dtype=dtype)
    ours.backward(outer)
    expected.backward(outer)
    close = {"rtol": 1e-5, "atol": 1e-6} if dtype == torch.float32 else {"rtol": 1e-13, "atol": 1e-14}
    torch.testing.assert_close(ours, expected, **close)
    torch.testing.assert_close(raw.grad, theirs.grad, **close)


def test_class_weights_and_ignored_labels_are_torchs():
    raw, y, _ = arrays("cross_entropy", n=300)
    y[::7] = -100
    weight = [1.0, 0.5, 2.0, 0.0]
    theirs = raw.detach().clone().requires_grad_()
    expected = functional.cross_entropy(theirs, y, weight=torch.tensor(weight, dtype=raw.dtype))
    ours = loss("cross_entropy", raw, y, class_weight=weight, ignore_index=-100)
    ours.backward()
    expected.backward()
    torch.testing.assert_close(ours, expected)
    torch.testing.assert_close(raw.grad, theirs.grad)


def test_targets_that_are_probabilities():
    raw, _, _ = arrays("cross_entropy", n=50)
    y = torch.softmax(torch.randn(50, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0)), dim=1)
    torch.testing.assert_close(loss("cross_entropy", raw, y), functional.cross_entropy(raw, y))


@pytest.mark.parametrize("n_threads", [1, 2, 3, 4])
def test_threads_do_not_matter(n_threads):
    raw, y, w = arrays("cross_entropy", n=60_000, dtype=torch.float32)
    alone = raw.detach().clone().requires_grad_()
    a, b = loss("cross_entropy", raw, y, w, n_threads=n_threads), loss("cross_entropy", alone, y, w, n_threads=1)
    a.backward()
    b.backward()
    assert a.item() == b.item()
    assert torch.equal(raw.grad, alone.grad)


def test_several_outputs():
    raw, y, w = arrays("huber", width=3)
    value = loss("huber", raw, y, w)
    value.backward()
    expected, gradient = fastloss.loss_gradient("huber", y.numpy(), raw.detach().numpy(), w.numpy())
    assert value.item() == expected
    np.testing.assert_array_equal(raw.grad.numpy(), gradient)


# the graph ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_what_comes_before_and_after(reduction):
    """Through a linear layer below and a function above: the chain rule is torch's."""
    torch.manual_seed(0)
    X, y = torch.randn(64, 5, dtype=torch.float64), torch.randint(0, 3, (64,))
    ours, theirs = (torch.nn.Linear(5, 3, dtype=torch.float64) for _ in range(2))
    theirs.load_state_dict(ours.state_dict())
    (loss("cross_entropy", ours(X), y, None, reduction) ** 2).sum().backward()
    (functional.cross_entropy(theirs(X), y, reduction=reduction) ** 2).sum().backward()
    torch.testing.assert_close(ours.weight.grad, theirs.weight.grad)
    torch.testing.assert_close(ours.bias.grad, theirs.bias.grad)


def test_going_back_twice_over_a_kept_graph():
    raw, y, w = arrays("huber")
    value = loss("huber", raw, y, w)
    value.backward(retain_graph=True)
    once = raw.grad.clone()
    value.backward(retain_graph=True)
    (3 * value).backward()
    torch.testing.assert_close(raw.grad, 5 * once)


def test_a_changed_input_is_noticed():
    raw, y, _ = arrays("huber")
    below = raw * 1
    value = loss("huber", below, y)
    value.backward(retain_graph=True)
    with torch.no_grad():
        below += 1
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        value.backward()


def test_no_gradient_wanted(monkeypatch):
    raw, y, _ = arrays("huber")
    monkeypatch.setattr(fastloss.losses.Loss, "loss_gradient", lambda *a, **k: pytest.fail("a gradient was computed"))
    with torch.no_grad():
        assert not loss("huber", raw, y).requires_grad
    assert loss("huber", raw.detach(), y, reduction="none").grad_fn is None


def test_second_derivatives_are_refused():
    """Not forgotten: beside a term that has some, they would be missing without a word."""
    raw, y, _ = arrays("log_loss")
    (gradient,) = torch.autograd.grad(loss("log_loss", raw, y), raw, create_graph=True)
    np.testing.assert_array_equal(
        gradient.detach().numpy(), fastloss.gradient("log_loss", y.numpy(), raw.detach().numpy())
    )
    with pytest.raises(RuntimeError, match="second derivatives of a fastloss loss are not in torch's graph"):
        (gradient.square().sum() + raw.square().sum()).backward()


def test_training_a_network():
    torch.manual_seed(0)
    X = torch.randn(512, 2)
    y = (X[:, 0] * X[:, 1] > 0).long()
    model = torch.nn.Sequential(torch.nn.Linear(2, 16), torch.nn.Tanh(), torch.nn.Linear(16, 2))
    optimizer, criterion = torch.optim.Adam(model.parameters(), 0.05), Loss("cross_entropy")
    for _ in range(80):
        optimizer.zero_grad()
        criterion(model(X), y).backward()
        optimizer.step()
    assert (model(X).argmax(dim=1) == y).float().mean() > 0.97


# memory ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_nothing_is_copied(monkeypatch, dtype):
    """The kernels read the tensors' memory, and `raw.grad` is the memory that they wrote."""
    raw, y, w = arrays("cross_entropy", dtype=dtype)
    seen = {}
    real = fastloss.losses.Loss.loss_gradient

    def spy(self, y, raw, weight, **keywords):
        value, gradient = real(self, y, raw, weight, **keywords)
        seen.update(y=y.ctypes.data, raw=raw.ctypes.data, weight=weight.ctypes.data, gradient=gradient.ctypes.data)
        return value, gradient

    monkeypatch.setattr(fastloss.losses.Loss, "loss_gradient", spy)
    loss("cross_entropy", raw, y, w).backward()
    there = {"y": y.data_ptr(), "raw": raw.data_ptr(), "weight": w.data_ptr(), "gradient": raw.grad.data_ptr()}
    assert seen == there


@pytest.mark.parametrize("view", [lambda t: t[::2], lambda t: t.flip(0), lambda t: t.T.contiguous().T], ids="sfc")
def test_strides(view):
    base = torch.randn(40, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    raw = view(base).detach().requires_grad_()
    y = torch.arange(len(raw)) % 4
    plain = raw.detach().contiguous().requires_grad_()
    a, b = loss("cross_entropy", raw, y), loss("cross_entropy", plain, y)
    a.backward()
    b.backward()
    assert a.item() == b.item()
    assert torch.equal(raw.grad, plain.grad)


def test_the_gradient_is_freed_with_the_graph():
    raw, y, _ = arrays("huber")
    value = loss("huber", raw, y)
    gone = weakref.ref(value.grad_fn.gradient)
    del value
    assert gone() is None


# tensors in fastloss's own methods ------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_methods_take_tensors(dtype):
    raw, y, w = (t.detach() for t in arrays("huber", dtype=dtype))
    value, gradient = fastloss.loss_gradient("huber", y, raw, w)
    expected, there = fastloss.loss_gradient("huber", y.numpy(), raw.numpy(), w.numpy())
    assert value == expected
    assert isinstance(gradient, np.ndarray)
    np.testing.assert_array_equal(gradient, there)
    assert np.shares_memory(np.asarray(raw), raw.numpy())
    out = torch.empty_like(raw)
    fastloss.gradient("huber", y, raw, w, gradient_out=out.numpy())
    np.testing.assert_array_equal(out.numpy(), there)


def test_methods_refuse_tensors_of_a_graph():
    raw, y, _ = arrays("huber")
    with pytest.raises(TypeError, match=r"raw_prediction requires a gradient: fastloss\.interop\.torch.*\.detach\(\)"):
        fastloss.loss_gradient("huber", y, raw)


@pytest.mark.parametrize(
    ("tensor", "why"),
    [
        (torch.zeros(3, device="meta"), "meta device"),
        (torch.zeros(3, dtype=torch.bfloat16), "BFloat16"),
        (torch.zeros(3).to_sparse(), "Sparse layout"),
        (torch.zeros(3, dtype=torch.complex64).conj(), "conjugate bit"),
    ],
)
def test_methods_refuse_what_is_no_array(tensor, why):
    with pytest.raises(TypeError, match=f"raw_prediction cannot be read as an array: .*{why}"):
        fastloss.loss("huber", np.zeros(3), tensor)


# what is refused ------------------------------------------------------------------------------------------------


def test_what_is_no_tensor():
    raw, y, w = arrays("huber")
    with pytest.raises(TypeError, match="raw must be a torch tensor, got ndarray"):
        loss("huber", raw.detach().numpy(), y)
    with pytest.raises(TypeError, match="y must be a torch tensor, got list"):
        loss("huber", raw, [0.0] * 40)
    with pytest.raises(TypeError, match="sample_weight must be a torch tensor, got ndarray"):
        loss("huber", raw, y, w.numpy())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.int64, torch.complex64], ids=str)
def test_dtypes_of_raw(dtype):
    with pytest.raises(TypeError, match=rf"raw must be float32 or float64, got dtype {dtype}: pass raw\.float\(\)"):
        loss("huber", torch.zeros(3, dtype=dtype), torch.zeros(3))


@pytest.mark.parametrize("dtype", [torch.int64, torch.int8, torch.bool, torch.float16, torch.float32], ids=str)
def test_any_real_dtype_of_labels(dtype):
    raw = torch.tensor([0.3, -0.2])
    assert loss("log_loss", raw, torch.tensor([1, 0]).to(dtype)) == loss("log_loss", raw, torch.tensor([1.0, 0.0]))


def test_bfloat16_targets():
    with pytest.raises(TypeError, match=r"y must hold real numbers that NumPy knows, got dtype torch\.bfloat16"):
        loss("huber", torch.zeros(3), torch.zeros(3, dtype=torch.bfloat16))


def test_other_devices_and_layouts():
    with pytest.raises(ValueError, match=r"raw is on device meta; the kernels run on the CPU: pass raw\.cpu\(\)"):
        loss("huber", torch.zeros(3, device="meta"), torch.zeros(3))
    with pytest.raises(ValueError, match="y is on device meta"):
        loss("huber", torch.zeros(3), torch.zeros(3, device="meta"))
    with pytest.raises(TypeError, match=r"raw must be dense, got layout torch\.sparse_coo"):
        loss("huber", torch.zeros(3).to_sparse(), torch.zeros(3))


@pytest.mark.parametrize("which", ["y", "sample_weight"])
def test_gradients_by_others(which):
    raw, y, w = arrays("huber")
    given = {"y": y, "sample_weight": w}
    given[which].requires_grad_()
    with pytest.raises(ValueError, match=rf"{which} requires a gradient, .* pass {which}\.detach\(\)"):
        loss("huber", raw, **given)


def test_errors_of_the_kernels_come_through():
    raw, y, _ = arrays("cross_entropy")
    with pytest.raises(ValueError, match=r"y_true\[3\] = 9: cross_entropy needs labels in 0 ... 3"):
        loss("cross_entropy", raw, torch.where(torch.arange(40) == 3, 9, y))
    with pytest.raises(ValueError, match="reduction must be"):
        loss("cross_entropy", raw, y, reduction="batchmean")
    with pytest.raises(TypeError, match="unknown parameter 'smoothing'"):
        loss("cross_entropy", raw, y, smoothing=0.1)
    with pytest.raises(ValueError, match="there are no samples"):
        loss("huber", torch.zeros(0), torch.zeros(0))
    assert loss("huber", torch.zeros(0), torch.zeros(0), reduction="sum").item() == 0


# the module -----------------------------------------------------------------------------------------------------


def test_module():
    raw, y, w = arrays("huber")
    criterion = Loss("huber", "sum", n_threads=1, delta=0.3)
    assert repr(criterion) == "Loss(Huber(delta=0.3), reduction='sum')"
    assert torch.equal(criterion(raw, y, w), loss("huber", raw, y, w, "sum", delta=0.3))
    again = pickle.loads(pickle.dumps(criterion))
    assert torch.equal(again(raw, y), criterion(raw, y))
    assert Loss(fastloss.losses.Huber(delta=0.3)).loss == criterion.loss
    assert not list(criterion.parameters())
    with pytest.raises(ValueError, match="reduction must be 'mean', 'sum' or 'none', got 'max'"):
        Loss("huber", "max")


def test_importing_fastloss_does_not_import_torch(run_python):
    script = "import sys, fastloss; fastloss.losses; assert not {'torch', 'jax'} & set(sys.modules); print('ok')"
    assert run_python(script).stdout.strip() == "ok"


# the page -------------------------------------------------------------------------------------------------------


def test_blocks_of_the_page():
    """The blocks of docs/interop.md that need torch run, in one session."""
    page = Path(__file__).resolve().parents[1] / "docs" / "interop.md"
    if not page.exists():
        pytest.skip("the documentation lives in the source tree")
    section = page.read_text(encoding="utf-8").partition("## PyTorch")[2].partition("\n## ")[0]
    blocks = re.findall(r"(?ms)^```python\n(.*?)^```$", section)
    assert blocks
    names = {}
    for block in blocks:
        exec(block, names)
