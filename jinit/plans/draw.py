"""Drawing parameters: one cached program for each law, shape, dtype and placement, called for every leaf.

The key of a parameter depends on nothing but the key given and its path, so that adding, removing or
renaming another changes nothing. Compile time grows with the number of outputs of a program, so no
program has more than one.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jinit._errors import message
from jinit._typing import Array, Key
from jinit.initializers import _arguments as arguments
from jinit.initializers._base import Initializer
from jinit.initializers.constants import Constant
from jinit.plans import threefry
from jinit.plans.assignment import Assignment, reads_layout
from jinit.plans.foreign import Foreign
from jinit.plans.layers import Layers, Map, layers_of

Numbers = tuple[Any, ...]


@dataclasses.dataclass(frozen=True)
class Keys:
    """A key, or those of a population.

    Attributes:
      data: its raw data: `[words]`, or `[n, words]` for a population.
      impl: name of its generator.
    """

    data: Any
    impl: str

    @property
    def population(self) -> int | None:
        """Number of members, or None."""
        return self.data.shape[0] if self.data.ndim > 1 else None


def keys_of(key: Any, *, caller: str) -> Keys:
    """One key, or an array of n keys, typed `[n]` or raw `[n, 2]`.

    Raises:
      TypeError: `key` is none.
      ValueError: it has the wrong shape.
    """
    dtype, shape = getattr(key, "dtype", None), getattr(key, "shape", None)
    advice = "Make one with `jax.random.key(0)`, and n for a population with `jax.random.split(key, n)`."
    if dtype is not None and jnp.issubdtype(dtype, jax.dtypes.prng_key):
        typed = key
    elif dtype == jnp.uint32:
        try:
            typed = jax.random.wrap_key_data(jnp.asarray(key))
        except TypeError:
            must = "a raw `key` must have the shape that the generator of JAX's configuration asks for"
            raise ValueError(message(caller, must, f"uint32 of shape {shape}", advice)) from None
    else:
        got = f"key={key!r}" if dtype is None else f"an array of dtype {dtype} and shape {shape}"
        raise TypeError(message(caller, "`key` must be a JAX random key, or an array of them", got, advice))
    if typed.ndim > 1 or typed.size == 0:
        must = "`key` must be one key, or a vector of at least one"
        raise ValueError(message(caller, must, f"keys of shape {typed.shape}", advice))
    data = jax.random.key_data(typed)
    if not arguments.traced(data) and data.is_fully_addressable and len(data.sharding.device_set) == 1:
        data = np.asarray(data)  # bound to no device, and quicker to hand over
    return Keys(data, str(jax.random.key_impl(typed)))


class Artist:
    """Draws parameters. Programs are compiled in threads, and may be before it is known that they are needed.

    Args:
      keys: from `keys_of`. With those of a population every array has a leading axis.
      shardings: where to put each parameter, by path; what is missing is left to JAX.
      caller: whom an error names.
    """

    def __init__(self, keys: Keys, shardings: Mapping[str, Any], *, caller: str):
        self.keys, self.shardings, self.caller = keys, shardings, caller
        self._programs: dict[Recipe, Any] = {}  # functions of the user may change between calls
        self._compiled: dict[Recipe, Future[Any]] = {}
        self._threads = ThreadPoolExecutor()

    def prepare(self, assignment: Assignment) -> tuple[Recipe, tuple[Any, ...]]:
        """Start to compile what draws a parameter; returns the recipe and the operands of the program."""
        path = assignment.path
        recipe, numbers = _recipe(assignment, self.keys, self.shardings.get(path))
        operands = (self.keys.data, _words(path), numbers)
        if recipe not in self._programs:
            self._programs[recipe] = _cached_program(recipe) if recipe.lasting else _program(recipe)
            if not arguments.traced(self.keys.data):
                with _named(assignment, recipe, self.caller):
                    lowered = self._programs[recipe].lower(*operands)
                self._compiled[recipe] = self._threads.submit(lowered.compile)
        return recipe, operands

    def draw(self, assignments: Iterable[Assignment]) -> dict[str, Array]:
        """The parameters, by path."""
        calls = [(assignment, *self.prepare(assignment)) for assignment in assignments]
        drawn = {}
        for assignment, recipe, operands in calls:
            with _named(assignment, recipe, self.caller):
                if recipe in self._compiled:
                    self._compiled[recipe].result()
                drawn[assignment.path] = self._programs[recipe](*operands)
        self._threads.shutdown(cancel_futures=True)
        return drawn


def draw(
    assignments: Iterable[Assignment], keys: Keys, shardings: Mapping[str, Any], *, caller: str
) -> dict[str, Array]:
    """Draw parameters, by path; the arguments are those of `Artist`."""
    return Artist(keys, shardings, caller=caller).draw(assignments)


@contextlib.contextmanager
def _named(assignment: Assignment, recipe: Recipe, caller: str) -> Iterator[None]:
    """Says in an error which rule and parameter it is about."""
    try:
        yield
    except Exception as error:
        where = f"rule {assignment.rule} ({assignment.pattern!r}) for {assignment.path!r}"
        error.add_note(f"`{caller}`: in {where}, called on shape {recipe.called}.")
        raise


def _words(path: str) -> np.ndarray:
    """64 bits that stand for a path, the same in every process."""
    return np.frombuffer(hashlib.sha256(path.encode()).digest()[:8], ">u4").astype(np.uint32)


@dataclasses.dataclass(frozen=True)
class Recipe:
    """All that a program depends on.

    Attributes:
      laws: pairs of a template (`Initializer.parted`) and the places, in the stack, of the layers it draws.
      layers: how the array is made up.
      whole: whether the one law fills the stored array at once, stack and all.
      dtype: dtype of the result.
      key_impl: generator of the key.
      population: whether there is a vector of keys.
      sharding: where to put the result, or None.
      lasting: whether the program may be kept for later calls.
    """

    laws: tuple[tuple[Any, tuple[int, ...]], ...]
    layers: Layers
    whole: bool
    dtype: Any
    key_impl: str
    population: bool
    sharding: Any
    lasting: bool

    @property
    def called(self) -> tuple[int, ...]:
        """The shape that the first law is called on."""
        if self.whole:
            return self.layers.shape
        return self.layers.kernel if reads_layout(self.laws[0][0]) else self.layers.layer

    @property
    def generator(self) -> Any:
        """What the keys are of."""
        return threefry.written_out() if self.key_impl == threefry.NAME else self.key_impl

    @property
    def each(self) -> Map:
        """`jax.vmap`, or a loop for generators whose numbers depend on what is drawn beside."""
        return jax.vmap if self.key_impl == threefry.NAME else _looped

    def leaf(self, key: Key, numbers: tuple[Numbers, ...]) -> Array:
        """One parameter, all its layers."""
        if self.whole:
            return self.one(self.laws[0][0], key, numbers[0])
        keys = _layer_keys(key, self.layers.stack)
        order = [place for _, places in self.laws for place in places]
        parts = [
            self.each(functools.partial(self.one, law))(keys[np.array(places)], given)
            for (law, places), given in zip(self.laws, numbers, strict=True)
        ]
        stack = parts[0] if len(parts) == 1 else jnp.concatenate(parts)[np.argsort(order)]
        return self.layers.joined(stack)

    def one(self, law: Any, key: Key, numbers: Numbers) -> Array:
        """One layer, or the whole array where that is the same."""
        if isinstance(law, Foreign):
            return self.layers.fill(lambda key, shape: law.draw(key, shape, self.dtype), key, self.each)
        init = law.joined(numbers) if numbers else law
        if reads_layout(init):
            return self.layers.fill(lambda key, shape: init(key, shape, self.dtype), key, self.each)
        return init(key, self.layers.shape if self.whole else self.layers.layer, self.dtype)


def _recipe(assignment: Assignment, keys: Keys, sharding: Any) -> tuple[Recipe, tuple[Numbers, ...]]:
    """What the program of a parameter depends on, and the numbers to call it with."""
    layers, dtype = layers_of(assignment.use), assignment.use.dtype
    inits = assignment.initializers
    whole = len(inits) == 1 and (not layers.scan_axes or isinstance(inits[0], Constant))
    inits = inits if whole or len(inits) > 1 else inits * int(np.prod(layers.stack))
    groups: dict[Any, list[tuple[int, Numbers]]] = {}
    for place, init in enumerate(inits):
        law, numbers = _parted(init, layers, dtype)
        groups.setdefault(law, []).append((place, numbers))
    laws = tuple((law, tuple(place for place, _ in group)) for law, group in groups.items())
    columns = [list(zip(*(numbers for _, numbers in group), strict=True)) for group in groups.values()]
    operands = tuple(tuple(_operand(column, whole, dtype) for column in group) for group in columns)
    if not any(reads_layout(init) for init in inits):
        layers = layers.plain  # the program is that of any array of this shape
    lasting = all(not isinstance(law, Foreign) or law.lasting for law in groups)
    population = keys.population is not None
    return Recipe(laws, layers, whole, dtype, keys.impl, population, sharding, lasting), operands


def _parted(init: Any, layers: Layers, dtype: Any) -> tuple[Any, Numbers]:
    """What stays and what is handed to the program: numbers, where the dtype is real."""
    if not isinstance(init, Initializer):
        return Foreign.of(init), ()
    if jnp.issubdtype(dtype, jnp.complexfloating):
        return init, ()
    return init.parted(layers.kernel if reads_layout(init) else layers.layer)


def _operand(column: tuple[Any, ...], whole: bool, dtype: Any) -> Any:
    """Numbers in the dtype that samples are drawn in: one, or one for each layer."""
    wide = jnp.dtype(jnp.float64 if dtype == jnp.float64 else jnp.float32)
    if any(arguments.traced(number) for number in column):
        numbers = [jnp.asarray(number, wide) for number in column]
        return numbers[0] if whole else jnp.stack(numbers)
    return wide.type(column[0]) if whole else np.asarray(column, wide)


def _layer_keys(key: Key, stack: tuple[int, ...]) -> Key:
    """One key for each layer; those of a stack do not depend on how long it is."""
    keys = key[None]
    for size in stack:
        deeper = jax.vmap(jax.vmap(jax.random.fold_in, (None, 0)), (0, None))
        keys = deeper(keys, jnp.arange(size, dtype=jnp.uint32)).reshape(-1)
    return keys


def _looped(function: Callable[..., Array]) -> Callable[..., Array]:
    return lambda *args: jax.lax.map(lambda args: function(*args), args)


def _program(recipe: Recipe) -> Callable[..., Array]:
    def draw_one(data: Array, words: Array, numbers: tuple[Numbers, ...]) -> Array:
        key = jax.random.wrap_key_data(data, impl=recipe.generator)
        key = jax.random.fold_in(jax.random.fold_in(key, words[0]), words[1])
        return recipe.leaf(key, numbers)

    def draw_all(data: Array, words: Array, numbers: tuple[Numbers, ...]) -> Array:
        return recipe.each(lambda data: draw_one(data, words, numbers))(data)

    # None would say that the result is in one place, to `jax.jit`
    placed = {} if recipe.sharding is None else {"out_shardings": recipe.sharding}
    return jax.jit(draw_all if recipe.population else draw_one, **placed)


_cached_program = functools.lru_cache(maxsize=1024)(_program)
