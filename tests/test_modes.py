"""no_grad and its like as blocks, as decorators, in generators, threads and contexts, compared with PyTorch."""

from __future__ import annotations

import asyncio
import contextvars
import threading

import pytest
from answers import torch
from hypothesis import given
from hypothesis import strategies as st

import tinyattn as ta
from tinyattn.engine.modes import PACKAGE, _passed_over, definitions_enabled, observers
from tinyattn.engine.observer import Observer

MODES = {
    "no_grad": (ta.no_grad, ta.is_grad_enabled, False),
    "enable_grad": (ta.enable_grad, ta.is_grad_enabled, True),
    "definitions": (ta.definitions, definitions_enabled, True),
}
PLAIN = [MODES["no_grad"], MODES["definitions"]]


@pytest.fixture(autouse=True)
def _recording_before_and_after():
    yield
    assert ta.is_grad_enabled()
    assert not definitions_enabled()


# --- random programs, in both libraries ---

PROGRAMS = st.recursive(
    st.just("look"),
    lambda inner: st.lists(
        st.tuples(
            st.sampled_from(["with", "call", "bare", "generator", "raise"]), st.sampled_from([0, 1, 2, 3]), inner
        ),
        max_size=4,
    ),
    max_leaves=12,
)


def play(library, program, seen):
    """Run a program of modes; `seen` receives whether recording is on, at every step."""
    seen.append(library.is_grad_enabled())
    if program == "look":
        return
    modes = [
        library.no_grad, library.enable_grad, lambda: library.set_grad_enabled(False), lambda: library.set_grad_enabled(True)
    ]  # fmt: skip
    for how, which, inner in program:
        if how == "with":
            with modes[which]():
                play(library, inner, seen)
        elif how == "call":
            modes[which]()(play)(library, inner, seen)
        elif how == "bare":
            library.set_grad_enabled(which % 2 == 0)
            play(library, inner, seen)
        elif how == "generator":
            for _ in modes[which]()(steps)(library, inner, seen):
                seen.append(library.is_grad_enabled())
        else:
            with pytest.raises(ZeroDivisionError):
                fail_in(modes[which](), library, inner, seen)
        seen.append(library.is_grad_enabled())


def fail_in(mode, library, program, seen):
    with mode:
        play(library, program, seen)
        raise ZeroDivisionError


def steps(library, program, seen):
    for part in program if program != "look" else [program]:
        play(library, part if part == "look" else [part], seen)
        yield


@given(PROGRAMS)
def test_nested_grad_modes_agree_with_torch(program):
    traces = []
    for library in (ta, torch):
        traces.append([])
        with library.enable_grad():
            play(library, program, traces[-1])
    assert traces[0] == traces[1]


# --- generators ---


@pytest.mark.parametrize(("mode", "enabled", "inside"), PLAIN)
def test_mode_holds_inside_each_resumption_of_a_generator_only(mode, enabled, inside):
    seen = []

    @mode()
    def numbers(n):
        seen.append(enabled())
        try:
            for i in range(n):
                got = yield i
                seen.append((got, enabled()))
        except ValueError as error:
            yield (str(error), enabled())
        finally:
            seen.append(enabled())
        return "end"

    made = numbers(3)
    assert seen == []
    assert next(made) == 0
    assert enabled() is not inside
    assert made.send("x") == 1
    assert enabled() is not inside
    assert made.throw(ValueError("thrown")) == ("thrown", inside)
    with pytest.raises(StopIteration) as end:
        next(made)
    assert end.value.value == "end"
    assert seen == [inside, ("x", inside), inside]
    assert enabled() is not inside

    closed = numbers(3)
    next(closed)
    closed.close()
    assert seen[-1] is inside
    assert enabled() is not inside


def test_generator_error_reaches_its_caller_with_the_mode_restored():
    @ta.no_grad()
    def fails():
        yield 1
        raise KeyError("inside")

    made = fails()
    next(made)
    with pytest.raises(KeyError, match="inside"):
        next(made)
    assert ta.is_grad_enabled()


@pytest.mark.parametrize(("mode", "enabled", "inside"), PLAIN)
def test_generator_closed_in_another_context_leaves_both_alone(mode, enabled, inside):
    def block():
        with mode():
            yield

    made, here, there = block(), contextvars.copy_context(), contextvars.copy_context()
    here.run(next, made)
    there.run(made.close)
    assert there.run(enabled) is not inside
    assert enabled() is not inside

    made, here = block(), contextvars.copy_context()
    here.run(next, made)  # a plain generator leaks its block to its caller, as in PyTorch ...
    assert here.run(enabled) is inside
    inherited = here.run(contextvars.copy_context)
    inherited.run(made.close)
    assert inherited.run(enabled) is not inside  # ... until it ends, here in a context that began inside the block


def test_observer_closed_in_another_context_leaves_it_alone():
    class Names(Observer):
        def before_forward(self, op, inputs, options):
            names.append(op.name)

    def block():
        with Names():
            yield

    names, made, here = [], block(), contextvars.copy_context()
    here.run(next, made)
    made.close()
    ta.exp(ta.ones(1))
    assert names == []
    here.run(ta.exp, ta.ones(1))
    assert names == ["exp"]
    watcher = Names()
    with watcher, watcher:
        ta.exp(ta.ones(1))
    ta.exp(ta.ones(1))
    assert names == ["exp"] * 3


def test_modes_and_observers_may_end_in_any_order():
    seen = []
    for library in (ta, torch):
        modes, states = [library.no_grad(), library.enable_grad(), library.no_grad()], []
        for mode in modes:
            mode.__enter__()
        for mode in (modes[0], modes[2], modes[1]):
            mode.__exit__(None, None, None)
            states.append(library.is_grad_enabled())
        library.set_grad_enabled(True)
        seen.append(states)
    assert seen[0] == seen[1]
    watchers = [Observer() for _ in range(3)]
    for watcher in watchers:
        watcher.__enter__()
    for watcher in (watchers[0], watchers[2]):
        watcher.__exit__()
    assert observers.get() == (watchers[1],)
    watchers[1].__exit__()
    assert observers.get() == ()


def test_lines_of_a_package_with_a_longer_name_are_the_users():
    assert _passed_over(PACKAGE + "engine/walk.py") and not _passed_over(PACKAGE[:-1] + "_models/net.py")


# --- decorators ---


@pytest.mark.parametrize("name", MODES)
def test_mode_decorates_without_brackets(name):
    mode, enabled, inside = MODES[name]

    def documented():
        """Its words."""
        return enabled()

    for decorated in (mode(documented), mode()(documented)):
        with ta.no_grad():
            assert decorated() is inside
        assert (decorated.__name__, decorated.__doc__) == ("documented", "Its words.")
    with pytest.raises(TypeError, match="takes nothing but a function to decorate"):
        mode(3)


def test_set_grad_enabled_as_a_decorator_restores_the_mode_of_the_program():
    @ta.set_grad_enabled(False)
    def quiet():
        return ta.is_grad_enabled()

    assert ta.is_grad_enabled()
    assert quiet() is False
    assert ta.is_grad_enabled()
    for wrong in ("x", 1, None, quiet):
        with pytest.raises(TypeError, match="expected True or False"):
            ta.set_grad_enabled(wrong)
    with pytest.raises(TypeError, match="expected True, False or None"):
        ta.ops.tiled_attention(quiet)
    assert ta.is_grad_enabled()


def test_decorated_function_recurses_and_raises():
    @ta.no_grad()
    def down(n):
        assert not ta.is_grad_enabled()
        return down(n - 1) if n else 1 // n

    with pytest.raises(ZeroDivisionError):
        down(3)
    assert ta.is_grad_enabled()


def test_decorated_coroutine_records_as_in_torch():
    async def asks(library):
        await asyncio.sleep(0)
        return library.is_grad_enabled()

    assert [asyncio.run(x.no_grad()(asks)(x)) for x in (ta, torch)] == [True, True]


# --- one object, several times ---


@pytest.mark.parametrize("make", [ta.no_grad, lambda: ta.set_grad_enabled(False)])
def test_one_mode_object_nests_in_itself(make):
    mode = make()
    with mode:
        with mode:
            assert not ta.is_grad_enabled()
        assert not ta.is_grad_enabled()
    assert ta.is_grad_enabled()
    with mode:
        assert not ta.is_grad_enabled()
    assert ta.is_grad_enabled()


def test_one_mode_object_serves_several_threads():
    mode, entered, leave, seen = ta.no_grad(), threading.Event(), threading.Event(), []

    def other():
        with mode:
            entered.set()
            leave.wait(10)
            seen.append(ta.is_grad_enabled())
        seen.append(ta.is_grad_enabled())

    thread = threading.Thread(target=other)
    with mode:
        thread.start()
        entered.wait(10)
    assert ta.is_grad_enabled()
    leave.set()
    thread.join()
    assert seen == [False, True]


def test_tasks_have_modes_of_their_own():
    async def worker(mode, seen):
        with mode:
            for _ in range(3):
                await asyncio.sleep(0)
                seen.append(ta.is_grad_enabled())
        return ta.is_grad_enabled()

    async def main():
        mode, quiet, loud = ta.no_grad(), [], []
        after = await asyncio.gather(worker(mode, quiet), worker(ta.enable_grad(), loud), worker(mode, quiet))
        return after, quiet, loud

    assert asyncio.run(main()) == ([True] * 3, [False] * 6, [True] * 3)
