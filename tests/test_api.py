"""The public names, objects and texts."""

import copy
import doctest
import importlib
import importlib.util
import inspect
import pickle
import pkgutil
import re
import warnings

import numpy as np
import pytest
from bits import METHODS, bits
from grids import everyday
from oracle import ORACLES

import fastloss
from fastloss import _kernels, losses
from fastloss.losses import Loss, get_class

NAMES = "Y_TRUE RAW_PREDICTION SAMPLE_WEIGHT".lower().split()


def test_get_loss_by_name(name):
    loss = fastloss.get_loss(name)
    assert isinstance(loss, Loss)
    assert type(loss) is get_class(name)
    assert loss.name == name


def test_a_loss_passes_through(name):
    loss = fastloss.get_loss(name)
    assert fastloss.get_loss(loss) is loss
    with pytest.raises(TypeError):
        fastloss.get_loss(loss, delta=3.0)


def test_names_and_classes():
    names = fastloss.list_losses()
    assert isinstance(names, tuple)
    assert list(names) == sorted(names)
    kinds = ("regression", "binary", "multiclass")
    regression, binary, multiclass = (fastloss.list_losses(kind=kind) for kind in kinds)
    assert len({*regression, *binary, *multiclass}) == len(regression) + len(binary) + len(multiclass)
    assert {*regression, *binary, *multiclass} <= set(names)
    promised = """squared_error absolute_error huber pseudo_huber log_cosh cauchy fair welsch tukey quantile
        smooth_quantile expectile epsilon_insensitive squared_epsilon_insensitive mape msle
        poisson gamma tweedie negative_binomial"""
    assert set(promised.split()) <= set(regression)
    promised = "log_loss hinge squared_hinge smooth_hinge modified_huber perceptron exponential focal poly1"
    assert set(promised.split()) <= set(binary)
    promised = "cross_entropy multiclass_hinge multiclass_squared_hinge multiclass_focal generalized_cross_entropy"
    assert {*promised.split(), "sparsemax", "entmax15"} <= set(multiclass)
    with pytest.raises(ValueError, match=r"regression.*binary.*multiclass"):
        fastloss.list_losses(kind="clustering")


def test_class_name_is_the_name_in_camel_case(name):
    cls = get_class(name)
    assert cls.__name__ == "".join(part.capitalize() for part in name.split("_"))
    assert getattr(losses, cls.__name__) is cls
    assert cls.__name__ in losses.__all__


def with_other_parameters(name):
    return fastloss.get_loss(name, **(ORACLES[name].grid or ({},))[0])


def test_repr_evaluates_to_an_equal_loss(name):
    for loss in (fastloss.get_loss(name), with_other_parameters(name)):
        assert eval(repr(loss), vars(losses)) == loss


def test_repr_text():
    assert repr(losses.Huber(delta=1.35)) == "Huber(delta=1.35)"
    assert repr(losses.SquaredError()) == "SquaredError()"


def test_equality_and_hash(name):
    a, b = get_class(name)(), get_class(name)()
    assert a == b
    assert hash(a) == hash(b)
    other = with_other_parameters(name)
    assert (a == other) == (not ORACLES[name].grid)
    assert len({a, b, other}) == (2 if ORACLES[name].grid else 1)
    assert a != name
    assert a is not None
    assert all(a != fastloss.get_loss(n) for n in fastloss.list_losses() if n != name)


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_pickle(name, protocol):
    for loss in (fastloss.get_loss(name), with_other_parameters(name)):
        again = pickle.loads(pickle.dumps(loss, protocol))
        assert again == loss
        assert again.params == loss.params
        y, raw = everyday(name, loss.params, n=20)
        assert bits(again.loss(y, raw)) == bits(loss.loss(y, raw))


def test_copies(name):
    loss = with_other_parameters(name)
    assert copy.copy(loss) == loss
    assert copy.deepcopy(loss) == loss
    assert type(loss)(**loss.params) == loss  # what cloning by parameters does


def test_losses_are_immutable(name):
    loss = with_other_parameters(name)
    for attribute in (*loss.params, "name", "something_new"):
        with pytest.raises(AttributeError):
            setattr(loss, attribute, 2.0)


def test_mutating_params_does_not_change_the_loss():
    loss = losses.Huber(delta=2.0)
    before = loss.loss([0.0], [5.0])
    try:
        loss.params["delta"] = 1.0
    except TypeError:
        return  # a read-only mapping: good
    assert loss.loss([0.0], [5.0]) == before
    assert loss == losses.Huber(delta=2.0)
    assert losses.Huber(delta=2.0).delta == 2.0


def test_parameters(name):
    cls = get_class(name)
    assert set(cls.parameters) == set(cls().params) == set(inspect.signature(cls).parameters)
    for key, declared in cls.parameters.items():
        assert getattr(cls(), key) == declared.default
    with pytest.raises(TypeError):
        cls(1.0)  # keyword-only: positions would freeze the order


def test_numpy_and_integer_parameters():
    assert losses.Huber(delta=np.float32(2)) == losses.Huber(delta=2) == losses.Huber(delta=np.int64(2))
    assert fastloss.get_loss("huber", delta=2).delta == 2.0


@pytest.mark.parametrize("method", METHODS)
def test_functions_equal_methods(hard_case, dtype, method):
    name, params = hard_case
    y, raw = everyday(name, params, n=100, dtype=dtype)
    weight = np.random.default_rng(0).uniform(0, 2, 100)
    loss = fastloss.get_loss(name, **params)
    for options in ({}, {"reduction": "sum"}, {"reduction": "none", "n_threads": 2}):
        mine = getattr(loss, method)(y, raw, weight, **options)
        for first in (name, loss):
            given = params if first is name else {}
            theirs = getattr(fastloss, method)(first, y, raw, weight, **options, **given)
            pairs = zip(mine, theirs, strict=True) if isinstance(mine, tuple) else [(mine, theirs)]
            assert all(bits(a) == bits(b) for a, b in pairs)


@pytest.mark.parametrize("method", METHODS)
def test_arguments_have_their_order_and_names(method):
    own = list(inspect.signature(getattr(Loss, method)).parameters.values())[1:]
    assert [p.name for p in own[:3]] == NAMES
    assert all(p.kind is p.POSITIONAL_OR_KEYWORD for p in own[:3])
    assert all(p.kind is p.KEYWORD_ONLY for p in own[3:])
    function = list(inspect.signature(getattr(fastloss, method)).parameters.values())
    assert [p.name for p in function[1:4]] == NAMES
    assert {p.name for p in own} <= {p.name for p in function}


def test_return_values():
    y, raw = np.zeros(3), np.ones(3)
    value, gradient = fastloss.loss_gradient("squared_error", y, raw)
    assert type(value) is float
    assert value == 0.5
    assert gradient.tolist() == [1 / 3] * 3
    out = np.empty(3)
    assert fastloss.gradient("squared_error", y, raw, gradient_out=out) is out
    slope, bend = fastloss.gradient_hessian("squared_error", y, raw, reduction="none", hessian_out=out)
    assert bend is out
    assert bend.tolist() == [1, 1, 1]
    assert slope.tolist() == [1, 1, 1]


def test_everything_public_has_a_name():
    for name in fastloss.__all__:
        assert hasattr(fastloss, name), name
    promised = {"get_loss", "list_losses", "loss", "gradient", "loss_gradient", "gradient_hessian", "show_config"}
    promised |= {"softmax", "log_softmax", "logsumexp"}
    assert promised <= set(fastloss.__all__)
    assert {"SGDLossClassifier", "SGDLossRegressor", "losses"} <= set(dir(fastloss))


def test_version():
    from importlib.metadata import version

    assert fastloss.__version__ == version("fastloss")


def test_show_config(capsys):
    config = fastloss.show_config()
    text = capsys.readouterr().out + str(config)
    assert fastloss.__version__ in text
    assert _kernels.current_isa() in text
    assert all(isa in text for isa in _kernels.available_isas())
    assert "openmp" in text.lower()
    assert "thread" in text.lower()


# documentation --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", fastloss.list_losses())
def test_docstring_of_every_loss(name):
    """A first sentence, an example, and every parameter explained."""
    text = inspect.getdoc(get_class(name))
    assert text
    assert ">>>" in text
    assert text.splitlines()[0].endswith(".")
    for parameter in get_class(name).parameters:
        assert re.search(rf"(?m)^({parameter}|.*\b{parameter},.*|.*, {parameter}) : ", text), parameter


def all_modules():
    """Every module but the compiled variants (they carry no documentation, and need their instruction set).

    Of the modules for other libraries those whose library is there.
    """
    walked = (info.name for info in pkgutil.walk_packages(fastloss.__path__, "fastloss."))
    absent = {f"fastloss.interop.{peer}" for peer in ("torch", "jax") if importlib.util.find_spec(peer) is None}
    return ["fastloss", *(name for name in walked if ".isa_" not in name and name not in absent)]


@pytest.mark.parametrize("module", all_modules())
def test_doctests(module):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = importlib.import_module(module)
        result = doctest.testmod(found, optionflags=doctest.NORMALIZE_WHITESPACE | doctest.ELLIPSIS)
    assert result.failed == 0


def test_doctests_are_found_at_all():
    finder = doctest.DocTestFinder()
    examples = sum(
        len(test.examples) for module in all_modules() for test in finder.find(importlib.import_module(module))
    )
    assert examples > 2 * len(fastloss.list_losses())


def test_package_is_typed():
    from importlib.resources import files

    assert files("fastloss").joinpath("py.typed").is_file()


def targets_of(loss):
    """Values of y at which to look at a loss as a function of raw."""
    spec = ORACLES[loss.name]
    if spec.kind == "binary":
        return [0.0, 1.0]
    return [0.0] if spec.takes == "difference" else [t for t in spec.targets(**loss.params) if t < 1e6]


def length_of(loss):
    """The width of a loss that has one."""
    return loss.params.get("delta", loss.params.get("scale", 1.0))


def test_curvature_bounds_the_hessian(hard_case, dtype, isa):
    """`curvature` is the least upper bound of the second derivative: never exceeded, and come close to if finite."""
    name, params = hard_case
    loss = fastloss.get_loss(name, **params)
    bound = loss.curvature()
    raw = np.concatenate(
        [np.linspace(-3, 3, 2001), np.linspace(-40, 40, 2001), length_of(loss) * np.linspace(-9, 9, 2001)]
    )
    raw = raw.astype(dtype)
    worst = 0.0
    for y in targets_of(loss):
        bend = loss.gradient_hessian(np.full_like(raw, y), raw, reduction="none")[1]
        worst = max(worst, float(np.nanmax(bend)))
    assert worst <= bound * (1 + 16 * np.finfo(dtype).eps)
    if np.isfinite(bound) and bound > 0:
        assert worst >= 0.99 * bound


def test_convexity_is_what_is_said(hard_case):
    """A loss that calls itself convex has a gradient that never falls; of the others it falls somewhere."""
    name, params = hard_case
    loss = fastloss.get_loss(name, **params)
    raw = np.concatenate(
        [np.linspace(-8, 8, 4001), np.linspace(-0.05, 0.05, 501), length_of(loss) * np.linspace(-9, 9, 4001)]
    )
    raw = np.unique(raw[raw > -1] if name == "msle" else raw)
    falls = False
    for y in targets_of(loss):
        gradient = loss.gradient(np.full_like(raw, y), raw, reduction="none")
        falls |= bool(np.any(np.diff(gradient) < -1e-12 * np.maximum(1, np.abs(gradient[1:]))))
    assert loss.convex == (not falls)
