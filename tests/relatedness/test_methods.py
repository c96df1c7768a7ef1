"""A method of one's own goes wherever those of the library go."""

from __future__ import annotations

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrel import Joint, Paper, Task, fit_head, task_relatedness
from jaxrel.relatedness import Method, Transformation, bound_resamples, in_memory
from jaxrel.relatedness.coupling import class_prior


@jax.tree_util.register_dataclass
@dataclass(frozen=True, kw_only=True)
class HeadAlone(Method):
    """The reference head as it is; class k stands for class k."""

    ridge: float = 0.1

    def fit(self, reference, target, head, key, init=None):
        head = fit_head(reference, ridge=self.ridge) if head is None else head
        (_, num_reference), (_, num_target) = reference.labelled, target.labelled
        prior = class_prior(*target.labelled, target.weights)
        return Transformation.of(jnp.eye(num_target, num_reference), prior, head, head)


def task(seed):
    rng = np.random.default_rng(seed)
    labels = np.arange(60) % 3
    return Task((3 * np.eye(3)[labels] + rng.normal(size=(60, 3))).astype(np.float32), labels)


@pytest.mark.slow
def test_it_is_evaluated_as_the_same_transformation_by_another_method():
    result = task_relatedness(task(0), task(1), method=HeadAlone()).raise_if_failed()
    fixed = Joint(setting="fixed", class_map="identity", standardise=False, head_ridge=0.1)
    same = task_relatedness(task(0), task(1), method=fixed)
    np.testing.assert_allclose(result.bound, same.bound, rtol=1e-6)
    assert float(result.target_loss) <= float(result.tight_bound) <= float(result.bound)
    assert result.computed_with.method == HeadAlone()
    streamed = task_relatedness(task(0), task(1), method=HeadAlone(), memory_budget=2**18)
    np.testing.assert_allclose(streamed.target_loss, result.target_loss, rtol=1e-3)
    assert float(streamed.bound) >= float(result.bound) * 0.99
    assert bound_resamples(result, task(0), task(1), num_resamples=5).shape == (5,)


def test_its_numbers_are_traced():
    task_relatedness(task(0), task(1), method=HeadAlone(ridge=0.1))
    before = in_memory.fit._cache_size(), in_memory._evaluate._cache_size()
    task_relatedness(task(0), task(1), method=HeadAlone(ridge=0.2))
    assert (in_memory.fit._cache_size(), in_memory._evaluate._cache_size()) == before


def test_methods_that_differ_in_learning_share_the_evaluation():
    learning = (Joint(num_steps=3), Joint(num_steps=3, setting="learned_features", early_stopping=True))
    assert len({jax.tree.structure(method.for_evaluation()) for method in learning}) == 1
    assert Paper(setting="fixed").for_evaluation() == Paper()


def test_it_starts_from_nothing_unless_it_says_so():
    result = task_relatedness(task(0), task(1), method=HeadAlone())
    with pytest.raises(ValueError, match=r"such as Joint\(...\), not HeadAlone"):
        task_relatedness(task(0), task(1), method=HeadAlone(), init=result)
