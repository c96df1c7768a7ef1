"""What users hold is taken wherever arrays are, with the value that NumPy's arrays have, or refused by name."""

from __future__ import annotations

import decimal
import io
import types
import zipfile
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest

import jaxrel
from jaxrel import Task, evaluation, metrics, study
from jaxrel._core.arrays import real_array, to_array, truth_array
from jaxrel.data import DataError
from jaxrel.pseudo_labels import checked_views, pseudo_label
from jaxrel.relatedness import Joint, bound_resamples, evaluate_bound
from jaxrel.relatedness.in_memory import checked_training_tasks
from jaxrel.study.encoder_arrays import from_arrays, from_file
from jaxrel.transport import PointCloud, sinkhorn
from jaxrel.transport.validation import checked_problem

RNG = np.random.default_rng(0)
# Numbers that half precision holds.
NUMBERS = RNG.integers(-16, 17, (12, 3)) / 4
LABELS = np.array([0, 1, 2] * 4)
NAMES = np.array(["cat", "ant", "bee"])[LABELS]
CODES = np.array([2, 0, 1] * 4)  # of the names in sorted order
NUMPY_FORMS: dict[str, Callable[[np.ndarray], Any]] = {
    "float64": lambda x: x,
    "float16": lambda x: x.astype(np.float16),
    "bfloat16": lambda x: x.astype(ml_dtypes.bfloat16),
    "big-endian": lambda x: x.astype(">f4"),
    "by columns": np.asfortranarray,
    "every other": lambda x: np.repeat(x, 2, axis=0)[::2],
    "objects": lambda x: x.astype(object),
    "decimals": lambda x: np.vectorize(decimal.Decimal, otypes=[object])(x),
    "lists": lambda x: x.tolist(),
    "tuples": lambda x: tuple(map(tuple, x.tolist())),
    "list of rows": list,
    "nothing masked": np.ma.array,
    "JAX": lambda x: jnp.asarray(x, jnp.float32),
    "JAX bfloat16": lambda x: jnp.asarray(x, jnp.bfloat16),
    "list of JAX rows": lambda x: [jnp.asarray(row, jnp.float32) for row in x],
    "protocol": lambda x: ByProtocol(x),
}


class ByProtocol:
    """An array by `__array__` alone."""

    def __init__(self, array):
        self._array = array

    def __array__(self, dtype=None, copy=None):
        return np.array(self._array, dtype)


class ByDLPack:
    """An array by DLPack alone, as those of other devices."""

    def __init__(self, array):
        self._array: Any = jnp.asarray(array)

    def __dlpack__(self, **options):
        return self._array.__dlpack__(**options)

    def __dlpack_device__(self):
        return self._array.__dlpack_device__()


def library(name):
    return pytest.importorskip(name)


def tensor(x, dtype="float32"):
    torch = library("torch")
    return torch.tensor(np.array(x), dtype=getattr(torch, dtype))


def hub_columns(x):
    datasets = library("datasets")
    return datasets.Dataset.from_dict({"embedding": x.tolist()})


LIBRARY_FORMS: dict[str, Callable[[np.ndarray], Any]] = {
    "torch": tensor,
    "torch float64": lambda x: tensor(x, "float64"),
    "torch float16": lambda x: tensor(x, "float16"),
    "torch bfloat16": lambda x: tensor(x, "bfloat16"),
    "torch transposed": lambda x: tensor(x.T).T,
    "torch with gradient": lambda x: tensor(x).requires_grad_(),
    "list of torch rows": lambda x: [tensor(row, "bfloat16") for row in x],
    "pandas": lambda x: library("pandas").DataFrame(x),
    "pandas nullable": lambda x: library("pandas").DataFrame(x).astype({0: "Float64", 1: "Float32"}),
    "pandas column of rows": lambda x: library("pandas").Series(list(x)),
    "polars": lambda x: library("polars").DataFrame(x),
    "polars column of rows": lambda x: library("polars").Series(x.tolist()),
    "pyarrow": lambda x: library("polars").DataFrame(x).to_arrow(),
    "datasets": lambda x: hub_columns(x)["embedding"],
    "datasets of torch": lambda x: (library("torch"), hub_columns(x).with_format("torch")["embedding"])[1],
}


@pytest.mark.parametrize("form", [*NUMPY_FORMS, *LIBRARY_FORMS])
def test_every_form_of_numbers_has_the_values_of_numpy(form):
    given = (NUMPY_FORMS | LIBRARY_FORMS)[form](NUMBERS)
    np.testing.assert_array_equal(np.asarray(real_array("x", given), np.float64), NUMBERS)


def test_arrays_of_numpy_and_jax_are_not_copied():
    for array in (NUMBERS, jnp.asarray(NUMBERS)):
        assert to_array("x", array) is array
    held = tensor(NUMBERS)
    assert np.shares_memory(to_array("x", held), held.numpy())


def test_an_array_that_has_dlpack_alone_is_taken():
    np.testing.assert_array_equal(to_array("x", ByDLPack(NUMBERS)), jnp.asarray(NUMBERS))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (lambda: NUMBERS > 0, r"x must be real numbers, got dtype bool.*numpy.asarray\(x, dtype=float\)"),
        (lambda: NUMBERS * 1j, "x must be real numbers, got dtype complex128.*real and imaginary parts"),
        (lambda: NUMBERS.astype(str), r"text.*numpy.asarray\(x, dtype=float\)"),
        (lambda: NUMBERS.astype("M8[s]"), "dates"),
        (lambda: NUMBERS.astype("m8[s]"), r"durations.*x / numpy.timedelta64"),
        (lambda: [[1.0, "a"]], "x holds values of types float, str: pass numbers only, or text only"),
        (lambda: [[1.0], [1.0, 2.0]], "x must be one rectangular array"),
        (lambda: [np.zeros(2), np.zeros(3)], r"x\[1\] has shape \(3,\), x\[0\] has shape|x\[1\] has shape \(3,\)"),
        (lambda: {"a": 1}, "x is a dict: pass an array"),
        (lambda: None, "x is a NoneType"),
        (lambda: (value for value in "ab"), "x is a generator"),
        (lambda: tensor(NUMBERS).to_sparse(), r"x cannot be read as one array, it is a torch.Tensor.*to_dense"),
        (
            lambda: library("pandas").DataFrame({"a": [True, None]}, dtype="boolean"),
            "truth values, some of them missing",
        ),
    ],
)
def test_what_is_no_array_of_numbers_is_named(given, message):
    with pytest.raises(ValueError, match=message):
        real_array("x", given())


def test_advice_for_other_types_works():
    for given in (NUMBERS > 0, NUMBERS.astype(str), tensor(NUMBERS) > 0):
        assert real_array("x", np.asarray(given, dtype=float)).shape == NUMBERS.shape
    assert real_array("x", NUMBERS.astype("m8[s]") / np.timedelta64(1, "s")).shape == NUMBERS.shape


def holed(form):
    """Numbers of which that of row 3, column 1 is missing."""
    values = NUMBERS.copy()
    values[3, 1] = np.nan
    if form == "masked":
        return np.ma.array(NUMBERS, mask=np.isnan(values))
    if form == "masked integers":
        return np.ma.array(NUMBERS.astype(int), mask=np.isnan(values))
    objects = values.astype(object)
    objects[3, 1] = None
    if form == "None":
        return objects.tolist()
    if form == "pandas":
        return library("pandas").DataFrame(objects).astype("Float64")
    return library("polars").DataFrame(objects.tolist(), orient="row")


@pytest.mark.parametrize("form", ["masked", "masked integers", "None", "pandas", "polars"])
def test_missing_numbers_are_named_unless_their_sample_is_absent(form):
    with pytest.raises(ValueError, match=r"features\[3, 1\] is nan or missing.*weight 0"):
        Task(holed(form), LABELS)
    task = Task(holed(form), LABELS, weights=np.arange(12) != 3)
    np.testing.assert_array_equal(task.features[3], 0)
    assert np.isfinite(task.features).all()


def test_masked_rows_do_not_count():
    mask = np.repeat(np.arange(12)[:, None] == 5, 3, axis=1)
    wild = np.ma.array(np.where(mask, 1e6, NUMBERS), mask=mask)
    with pytest.raises(ValueError, match=r"features\[5, 0\] is nan or missing"):
        metrics.rankme_score(wild)
    kept = np.delete(NUMBERS, 5, axis=0)
    score = metrics.rankme_score(wild, weights=~mask.any(axis=1))
    np.testing.assert_allclose(score.value, metrics.rankme_score(kept).value, rtol=1e-5)


# Labels


LABEL_FORMS = {
    "lists": lambda names: names.tolist(),
    "objects": lambda names: names.astype(object),
    "bytes": lambda names: names.astype("S"),
    "strings of NumPy 2": lambda names: names.astype(np.dtypes.StringDType()),
    "one column": lambda names: names[:, None],
    "pandas": lambda names: library("pandas").Series(names),
    "pandas strings": lambda names: library("pandas").Series(names, dtype="string"),
    "pandas table": lambda names: library("pandas").DataFrame({"label": names}),
    "pandas index": lambda names: library("pandas").Index(names),
    "categorical": lambda names: library("pandas").Series(names).astype("category"),
    "polars": lambda names: library("polars").Series(names),
    "polars categorical": lambda names: library("polars").Series(names, dtype=library("polars").Categorical),
    "polars table": lambda names: library("polars").DataFrame({"label": names}),
    "datasets": lambda names: library("datasets").Dataset.from_dict({"label": names.tolist()})["label"],
}


@pytest.mark.parametrize("form", LABEL_FORMS)
def test_names_are_numbered_in_sorted_order_and_kept(form):
    task = Task(NUMBERS, LABEL_FORMS[form](NAMES))
    np.testing.assert_array_equal(task.labels, CODES)
    assert task.num_classes == 3
    assert task.class_names == ("ant", "bee", "cat")


def test_whole_numbers_have_one_name_as_values_and_as_categories():
    labels = CODES * 10.0
    categories = library("pandas").Categorical(labels)
    assert Task(NUMBERS, categories).class_names == Task(NUMBERS, labels).class_names == ("0", "10", "20")


def declared(form):
    """Names whose type declares an order of classes, of which one does not occur."""
    order = ["cat", "dog", "bee", "ant"]
    if form == "pandas":
        return library("pandas").Categorical(NAMES, categories=order)
    if form == "pandas table":
        return library("pandas").DataFrame({"label": declared("pandas")})
    if form == "polars":
        return library("polars").Series(NAMES, dtype=library("polars").Enum(order))
    datasets = library("datasets")
    features = datasets.Features({"label": datasets.ClassLabel(names=order)})
    return datasets.Dataset.from_dict({"label": [order.index(name) for name in NAMES]}, features=features)["label"]


@pytest.mark.parametrize("form", ["pandas", "pandas table", "polars", "datasets"])
def test_declared_classes_keep_their_order_and_those_that_do_not_occur_are_left_out(form):
    task = Task(NUMBERS, declared(form))
    assert task.class_names == ("cat", "bee", "ant")
    assert [task.class_names[label] for label in task.labels] == NAMES.tolist()
    assert Task(NUMBERS, declared(form), num_classes=4).class_names == ("cat", "dog", "bee", "ant")
    with pytest.raises(ValueError, match="num_classes is 5, labels are the names of 3 classes"):
        Task(NUMBERS, declared(form), num_classes=5)


INTEGER_FORMS = {
    "uint8": lambda y: y.astype(np.uint8),
    "big-endian": lambda y: y.astype(">i8"),
    "floats": lambda y: y.astype(float),
    "one column": lambda y: y[:, None],
    "objects": lambda y: y.astype(object),
    "torch": lambda y: tensor(y, "int64"),
    "list of torch numbers": lambda y: [tensor(label, "int64") for label in y],
    "pandas nullable": lambda y: library("pandas").Series(y, dtype="Int64"),
    "polars": lambda y: library("polars").Series(y),
    "JAX": jnp.asarray,
    "datasets": lambda y: library("datasets").Dataset.from_dict({"label": y.tolist()})["label"],
}


@pytest.mark.parametrize("form", INTEGER_FORMS)
def test_integers_stay_as_they_are_in_every_form(form):
    task = Task(NUMBERS, INTEGER_FORMS[form](LABELS))
    np.testing.assert_array_equal(task.labels, LABELS)
    assert (task.num_classes, task.class_names) == (3, None)


def test_truth_values_are_classes():
    task = Task(NUMBERS, LABELS == 1)
    np.testing.assert_array_equal(task.labels, LABELS == 1)
    assert task.class_names == ("False", "True")


def test_ids_with_gaps_are_renumbered_and_named_by_themselves():
    task = Task(NUMBERS, 300_000 + 10 * LABELS)
    np.testing.assert_array_equal(task.labels, LABELS)
    assert (task.num_classes, task.class_names) == (3, ("300000", "300010", "300020"))


def test_with_a_class_count_or_names_nothing_is_renumbered():
    held_out = np.where(LABELS == 1, 2, LABELS)
    for options in ({"num_classes": 3}, {"class_names": ["ant", "bee", "cat"]}):
        task = Task(NUMBERS, held_out, **options)
        np.testing.assert_array_equal(task.labels, held_out)
        assert task.num_classes == 3
    task = Task(NUMBERS[NAMES != "ant"], NAMES[NAMES != "ant"], class_names=["ant", "bee", "cat", "dog"])
    np.testing.assert_array_equal(task.labels, CODES[NAMES != "ant"])
    assert task.num_classes == 4
    with pytest.raises(ValueError, match=r"labels\[0\] is 'cat', which is not in class_names.*ant, bee"):
        Task(NUMBERS, NAMES, class_names=["ant", "bee"])


def test_integers_that_are_names_are_told_from_positions():
    ids = ("200", "210", "220")
    np.testing.assert_array_equal(Task(NUMBERS, 200 + 10 * LABELS, class_names=ids).labels, LABELS)
    np.testing.assert_array_equal(Task(NUMBERS, LABELS, class_names=ids).labels, LABELS)
    some = 1 + LABELS // 2  # 1 and 2: names, and positions too
    with pytest.raises(ValueError, match=r"names as well as positions.*as text.*num_classes if they are positions"):
        Task(NUMBERS, some, class_names=["1", "2", "3"])
    by_name = Task(NUMBERS, some.astype(str), class_names=["1", "2", "3"])
    np.testing.assert_array_equal(by_name.labels, some - 1)
    by_position = Task(NUMBERS, some, class_names=["1", "2", "3"], num_classes=3)
    np.testing.assert_array_equal(by_position.labels, some)


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (["a", 1, "b"] * 4, "labels holds values of types int, str"),
        (RNG.normal(size=12), r"labels\[0\] is -?\d.*logme_regression_score\(features, targets\)"),
        (np.array(["2020-01-01"] * 12, "M8[D]"), r"got dtype datetime64\[D\].*numpy.asarray\(labels\).astype\(str\)"),
        ([2**70] * 12, r"labels\[0\] is 1.18.*e\+21, outside 0"),
        (np.full(12, 2**63, np.uint64), r"labels\[0\] is 9223372036854775808, outside"),
        (
            np.array([np.iinfo(np.int64).min, -(2**31) - 1, 2**32 + 1] * 4),
            r"labels\[0\] is -9223372036854775808, outside",
        ),
        (np.array([0, 1, 2**32 + 1] * 4), r"labels\[2\] is 4294967297, outside"),
        (np.eye(3)[LABELS], r"numpy.asarray\(labels\).argmax\(axis=1\)"),
    ],
)
def test_labels_that_are_no_classes_are_named(labels, message):
    with pytest.raises(ValueError, match=message):
        Task(NUMBERS, labels)


@pytest.mark.parametrize(
    "labels",
    [
        ["a", None, "b"] * 4,
        ["a", float("nan"), "b"] * 4,
        [0, None, 1] * 4,
        np.ma.array(LABELS, mask=LABELS == 1),
        np.ma.array(NAMES, mask=LABELS == 1),
    ],
)
def test_missing_labels_are_of_unknown_class(labels):
    task = Task(NUMBERS, labels)
    assert task.partly_labelled
    with pytest.raises(ValueError, match=r"labels\[1\] and 3 other of 12 labels are missing: .*weight 0"):
        metrics.logme_score(NUMBERS, labels)
    assert metrics.logme_score(NUMBERS, task.of_labelled().labels, weights=task.of_labelled().weights).messages == ()


def test_advice_for_labels_works():
    np.testing.assert_array_equal(Task(NUMBERS, np.asarray(np.eye(3)[LABELS].tolist()).argmax(axis=1)).labels, LABELS)
    dates = np.array(["2020-01-02", "2020-01-01"] * 6, "M8[D]")
    assert Task(NUMBERS, np.asarray(dates).astype(str)).class_names == ("2020-01-01", "2020-01-02")
    targets = RNG.normal(size=12)
    assert metrics.logme_regression_score(NUMBERS, targets).messages == ()
    assert Task(NUMBERS, np.digitize(targets, np.quantile(targets, [0.25, 0.5, 0.75]))).num_classes == 4


# One number for a class in all parts of a data set


def numbered_by_name(task, names):
    return [names[label] for label in np.asarray(task.labels)]


@pytest.mark.parametrize("kind", ["text", "ids with gaps", "ids of a training task without gaps"])
def test_classes_of_held_out_samples_are_those_of_the_training_task(kind):
    every = {"text": NAMES, "ids with gaps": 10 * LABELS}.get(kind, LABELS)
    kept = LABELS != 1
    train, held_out = Task(NUMBERS, every), Task(NUMBERS[kept], every[kept])
    np.testing.assert_array_equal(held_out.with_classes_of(train).labels, np.asarray(train.labels)[kept])
    mine = study.FeatureArrays("mine", {"net": (train, held_out)})
    np.testing.assert_array_equal(mine.features("net", study.silent).held_out.labels, np.asarray(train.labels)[kept])


def test_a_transformation_is_not_evaluated_on_classes_that_it_may_know_by_other_numbers():
    kept = LABELS != 1
    train = Task(NUMBERS, LABELS)
    transformation = types.SimpleNamespace(conditional=np.eye(3))  # what is looked at before
    for held_out in (Task(NUMBERS[kept], LABELS[kept]), Task(NUMBERS[kept], NAMES[kept])):
        with pytest.raises(ValueError, match=r"reference has the classes .* the transformation knows 3"):
            evaluate_bound(transformation, held_out, train, method=Joint())
    aligned = Task(NUMBERS[kept], LABELS[kept]).with_classes_of(train)
    assert aligned.num_classes == 3


def test_new_classes_follow_the_known_ones():
    train, held_out = Task(NUMBERS, NAMES), Task(NUMBERS, np.where(NAMES == "ant", "aardvark", NAMES))
    found = held_out.with_classes_of(train)
    assert found.class_names == ("ant", "bee", "cat", "aardvark")
    np.testing.assert_array_equal(found.labels, np.where(CODES == 0, 3, CODES))


def test_classes_that_cannot_be_compared_are_refused():
    named, unnamed = Task(NUMBERS, NAMES), Task(NUMBERS, LABELS)
    for first, second in ((named, unnamed), (unnamed, named)):
        with pytest.raises(ValueError, match="ant, bee, cat in one task, without names in the other: pass class_names"):
            first.with_classes_of(second)
        with pytest.raises(ValueError, match=r"evaluate_on\[0\]: classes are ant"):
            jaxrel.task_relatedness(first, first, evaluate_on=(second, first))
    with pytest.raises(ValueError, match=r"class_map='identity' pairs classes by number, but class 1 .* '2' .* '1'"):
        jaxrel.task_relatedness(unnamed, Task(NUMBERS, LABELS // 2 * 2), method=Joint(class_map="identity"))


@pytest.mark.slow
def test_relatedness_on_held_out_samples_does_not_depend_on_how_classes_are_numbered():
    kept = LABELS != 1
    method = Joint(num_steps=2, sinkhorn_iterations=2)

    def relatedness(labels, **options):
        train = Task(NUMBERS, labels), Task(NUMBERS[::-1], labels[::-1])
        held_out = Task(NUMBERS[kept] + 1, labels[kept], **options), Task(NUMBERS[kept] - 1, labels[kept], **options)
        result = jaxrel.task_relatedness(*train, evaluate_on=held_out, method=method)
        return float(result.bound), bound_resamples(result, *held_out, num_resamples=3)

    bound, resamples = relatedness(LABELS, num_classes=3)
    for labels in (LABELS, 10 * LABELS, np.array(["a", "b", "c"])[LABELS]):
        found, again = relatedness(labels)
        assert found == bound
        np.testing.assert_array_equal(again, resamples)


def test_names_do_not_compile_anew():
    tasks = checked_training_tasks(Task(NUMBERS, NAMES), Task(NUMBERS, 7 * LABELS))
    assert [task.class_names for task in tasks] == [None, None]


# Public functions


X, Y = NUMBERS[:6], NUMBERS[6:]
VALUES = {
    "sample": lambda x, form: metrics.rankme_score(form(x)).value,
    "two samples": lambda x, form: metrics.mmd_score(form(x[:6]), form(x[6:])).value,
    "regression": lambda x, form: metrics.logme_regression_score(form(x), form(x[:, :2] ** 2)).value,
    "many metrics": lambda x, form: metrics.score_encoders([form(x)] * 2, metrics=["rankme"])["rankme"].value,
    "clouds": lambda x, form: sinkhorn(PointCloud(form(x[:6]), form(x[6:])), epsilon=1.0).value,
    "cost": lambda x, form: checked_problem(form(np.abs(x)), None, None, None, None)[0],
    "views": lambda x, form: checked_views((form(x), form(x + 1)), Task(x))[1],
    "statistic": lambda x, form: evaluation.spearman(form(x.T)[0], form(x.T)[1]),
    "scoreboard": lambda x, form: from_arrays("net", {"features": form(x)}).load(study.silent)["features"],
    "rows": lambda x, form: Task(form(x), LABELS).rows(slice(12)),
}


@pytest.mark.parametrize("function", VALUES)
def test_public_functions_take_tensors_tables_and_lists(function):
    want = np.asarray(VALUES[function](NUMBERS, lambda x: np.asarray(x, np.float32)))
    forms = {"lists": lambda x: np.asarray(x).tolist(), "objects": lambda x: np.asarray(x).astype(object)}
    if function != "statistic":
        forms |= {name: LIBRARY_FORMS[name] for name in ("torch with gradient", "torch bfloat16", "polars")}
    for name, form in forms.items():
        np.testing.assert_allclose(np.asarray(VALUES[function](NUMBERS, form)), want, rtol=2e-6, err_msg=name)


def test_metrics_take_names_and_ids_with_gaps():
    want = metrics.silhouette_score(NUMBERS, CODES).value
    for labels in (NAMES, LABELS[:, None] * 0 + CODES[:, None], 1000 + 10 * CODES, declared("pandas")):
        np.testing.assert_allclose(metrics.silhouette_score(NUMBERS, labels).value, want, rtol=1e-6)
    both = metrics.score_encoders([NUMBERS], NAMES, metrics=["silhouette"])
    np.testing.assert_allclose(both["silhouette"].value, [want], rtol=1e-6)
    source = np.array([5, 70, 70] * 4)
    given = metrics.score_encoders(None, NAMES, source_labels=[source, source.astype(str)], metrics=["nce"])
    np.testing.assert_array_equal(given["nce"].value, [metrics.nce_score(source // 70, CODES).value] * 2)


def test_pseudo_labels_may_be_names():
    found = pseudo_label(Task(NUMBERS), NAMES)
    np.testing.assert_array_equal(found.labels, CODES)
    assert found.num_classes == 3
    with pytest.raises(ValueError, match=r"labels\[0\] is 4, outside 0 \.\. 2"):
        pseudo_label(Task(NUMBERS, num_classes=3), LABELS + 4)


def test_masks_are_taken_as_tensors():
    mask = truth_array("where", tensor(LABELS) == 1)
    np.testing.assert_array_equal(mask, LABELS == 1)


def test_arrays_pass_inside_of_transformations():
    assert jax.jit(lambda x: real_array("x", x) * 2)(NUMBERS).shape == NUMBERS.shape
    assert jax.jit(lambda x: real_array("x", [x, x]))(NUMBERS[0]).shape == (2, 3)
    with pytest.raises(ValueError, match="labels must be integers inside jit or vmap"):
        jax.jit(lambda y: Task(NUMBERS, y, num_classes=3).labels)(LABELS / 2)


# Files


def file_of(path, **members):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(f"{name}.npy", content)
    return path


def bytes_of(array):
    stream = io.BytesIO()
    np.save(stream, array)
    return stream.getvalue()


ONES = bytes_of(np.ones((3, 2)))


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(b"these are no numbers", id="no array"),
        pytest.param(ONES[:-8], id="cut"),
        pytest.param(ONES.replace(b"'descr'", b"'descr' ((("), id="header that cannot be parsed"),
        pytest.param(ONES.replace(b"(3, 2)", b"(3**9,"), id="header that is a formula"),
        pytest.param(ONES.replace(b"(3, 2), }" + b" " * 18, b"(3, 99999999999999999999)}"), id="huge"),
        pytest.param(ONES.replace(b"'<f8'", b"'<x9'"), id="unknown type"),
    ],
)
def test_damaged_files_are_named_in_one_line(tmp_path, content):
    encoder = from_file(file_of(tmp_path / "bad.npz", features=content))
    with pytest.raises(DataError, match=r"bad\.npz cannot be read: .") as error:
        encoder.load(study.silent)
    assert "\n" not in str(error.value)


def test_a_damaged_stream_is_named(tmp_path):
    path = file_of(tmp_path / "bad.npz", features=bytes_of(RNG.normal(size=(99, 9))))
    content = bytearray(path.read_bytes())
    content[300:600] = bytes(300)
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"bad\.npz cannot be read"):
        from_file(path).load(study.silent)


def test_labels_of_a_file_may_be_text(tmp_path):
    np.savez(tmp_path / "net.npz", features=NUMBERS, labels=NAMES)
    arrays = from_file(tmp_path / "net.npz").load(study.silent)
    np.testing.assert_array_equal(Task(**arrays).labels, CODES)


def test_fingerprints_are_those_of_the_values():
    first, second, other = (
        from_arrays("net", {"labels": names}) for names in (NAMES, NAMES.astype(object), NAMES[::-1])
    )
    assert first.fingerprint() == from_arrays("net", {"labels": NAMES.copy()}).fingerprint()
    assert second.fingerprint() == from_arrays("net", {"labels": NAMES.copy().astype(object)}).fingerprint()
    assert first.fingerprint() != other.fingerprint()
