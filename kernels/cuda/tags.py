"""Records of type tags, and how a compiled function is chosen by one of them.

A type tag is an instance of an empty NamedTuple class (``Registers()``, ``Block()``): it has a type
but no value, and costs nothing in machine code. A kernel collects its tags in one of these records.
``@generated`` functions look at the types in the record and return the body to use.
"""

from typing import Any, NamedTuple


class RowTags(NamedTuple):
    """The type tags of a kernel in which a group of threads shares a row."""

    dtype: Any  # of logits and gradients
    residency: Any  # where the row's logits are kept for the gradient pass, see row_cache.py
    group: Any  # the threads that share a row, see reduce.py
    alignment: Any  # how gradients are stored: Vectorized or Misaligned
    features: Any  # Plain, or Full: with softcap, logit scale and Hessian


class DistributionTags(NamedTuple):
    """Those of a kernel with distributions for targets."""

    dtype: Any
    target_dtype: Any
    target_layout: Any  # OneHot, SameLayout or OwnLayout
    weight_dtype: Any  # of class weights, or Unweighted
    residency: Any
    group: Any
    alignment: Any
    features: Any
    evaluation: Any  # Wide: the rule takes vectors; Single: one number at a time


class DistributionTypes(NamedTuple):
    """The types that a kernel with distributions and groups of threads is compiled for."""

    params: type  # NamedTuple of the loss's parameters, which selects its rule
    compute: Any  # np.float32 or np.float64
    dtype: type
    target_dtype: type
    target_layout: type
    weight_dtype: type
    residency: type
    group: Any
    lanes: Any
    alignment: type
    features: type
    evaluation: type


class ColumnTags(NamedTuple):
    """The type tags of a kernel in which each thread has a row to itself."""

    dtype: Any
    layout: Any  # Strided or SmemStaged, see columns.py
    residency: Any  # Registers or Reload
    features: Any


class DistributionColumnTags(NamedTuple):
    """Those of a kernel with distributions for targets."""

    dtype: Any
    target_dtype: Any
    target_layout: Any
    weight_dtype: Any
    layout: Any
    residency: Any
    features: Any
    evaluation: Any


class DistributionColumnTypes(NamedTuple):
    """The types that a kernel with distributions and a row for each thread is compiled for."""

    params: type
    compute: Any
    dtype: type
    target_dtype: type
    target_layout: type
    weight_dtype: type
    layout: type
    residency: type
    lanes: Any
    features: type
    evaluation: type


def tags_of(record: Any, types: Any) -> Any:
    """A record of tags, with an instance of the type that ``types`` has under each field's name."""
    return record(*(getattr(types, field)() for field in record._fields))


def tag_class(tags: Any, field: str) -> Any:
    """The class of one tag, from the Numba type of a record of tags."""
    return tags.types[tags.fields.index(field)].instance_class
