"""What one types at a prompt or in a notebook to have servers work.

    %on 1,2 x.mean()          on these servers; also 1-4, all, any (the first that is free), names of hosts
    %%on all                  the whole cell; the value of its last expression is shown for each server
    %on --async all run()     does not wait; %results shows what has come
    %servers                  who is there and does what
    %interrupt 2              KeyboardInterrupt in what runs there (default: everywhere)

In IPython and notebooks `mpiframe.attach` and `mpiframe.launch` bring them, or `%load_ext mpiframe` does.
They need of a client its public verbs only, so one that is attached to a world does as well.
"""

from __future__ import annotations

import difflib
import re
import shutil
import sys
import textwrap
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from mpiframe.errors import CommandArgumentError, CommandError, RequestError, TargetError
from mpiframe.shell.cells import as_command

NAMES = ("on", "servers", "interrupt", "results")
_NUMBERED = re.compile(r'File "<(command|cell) \d+>"')
_MATCHER = "mpiframe"
_OPTIONS = ("--block", "--async")


class Values(list[Any]):
    """What the servers answered, in the order of the target; prints with the server before each value."""

    def __init__(self, values: Iterable[Any], servers: Sequence[int | None]) -> None:
        super().__init__(values)
        self.servers = list(servers)

    def __repr__(self) -> str:
        width = shutil.get_terminal_size().columns
        return "\n".join(
            _beside(f"[{server}] ", _pretty(value, width))
            for server, value in zip(self.servers, self, strict=True)
        )

    def _repr_pretty_(self, printer: Any, cycle: bool) -> None:
        """As IPython shows it, below its `Out[1]:`."""
        for number, line in enumerate(("[...]" if cycle else repr(self)).split("\n")):
            if number:
                printer.break_()
            printer.text(line)


class Magics:
    """The magics, for one client; each takes the rest of its line, and the lines below it if it may."""

    def __init__(self, client: Any) -> None:
        self.client = client
        self._hosts: dict[int, str] = {}
        self._unfetched: list[int] = []  # ids of what was pushed with --async

    def run(self, name: str, line: str, cell: str | None = None) -> Any:
        """Carry out the magic of this name; what it gives is to be shown."""
        if name not in NAMES:
            near = difflib.get_close_matches(name, NAMES, 1)
            hint = f"; did you mean %{near[0]}?" if near else ""
            raise CommandArgumentError(f"there is no %{name} here{hint} There are: %{', %'.join(NAMES)}")
        if cell is not None and name != "on":
            raise CommandArgumentError(f"%%{name} takes no lines below it; use %{name}")
        return self.on(line, cell) if name == "on" else getattr(self, name)(line)

    # -- the magics --------------------------------------------------------------------------------

    def on(self, line: str, cell: str | None = None) -> Values | None:
        """Run code on servers and give the values of its last expression; None where there are none."""
        block, words, code = split_on(line, cell)
        target = parse_target(words, self.hosts)
        quiet = code.rstrip().endswith(";")
        try:
            command = as_command(code)
        except SyntaxError:
            command = code  # `push` says what is wrong with it
        ids = self.client.push(command, target)
        ids = ids if isinstance(ids, list) else [ids]
        if not block:
            self._unfetched += ids
            print(f"{_requests(ids)}; %results shows what has come")
            return None
        try:
            return _shown(self.client.get(ids), quiet)
        except KeyboardInterrupt:
            ended = {response.id for response in self.client.get(ids, block=False)}
            if left := [id for id in ids if id not in ended]:
                self._unfetched += left
                print(f"not ended yet: {_requests(left)}; `%results {_ranges(left)}` waits for it")
            raise

    def servers(self, line: str = "") -> Any:
        """The table of the servers, as narrow as the terminal."""
        if line.strip():
            raise CommandArgumentError("%servers takes nothing behind it")
        table = self.client.servers
        self._hosts = {row.rank: row.host for row in table}
        return table

    def interrupt(self, line: str = "") -> None:
        """Raise KeyboardInterrupt in the commands that run."""
        target = parse_target(line.strip() or "all", self.hosts)
        if target is None:
            raise TargetError("%interrupt needs to know which servers, not any")
        self.client.interrupt(target)

    def results(self, line: str = "") -> Values | None:
        """The values of what was pushed with --async and has ended; with ids behind it, wait for these."""
        if not line.strip():
            ended = self.client.get(self._unfetched, block=False) if self._unfetched else []
        else:
            ids = _parse_ids(line)
            strange = sorted(set(ids) - set(self._unfetched))
            if strange:
                known = _ranges(self._unfetched) or "none"
                raise RequestError(f"no request {strange[0]} waits for %results; there is: {known}")
            ended = self.client.get(ids)
        fetched = {response.id for response in ended}
        self._unfetched = [id for id in self._unfetched if id not in fetched]
        if self._unfetched:
            print(f"not ended yet: {_requests(self._unfetched)}")
        return _shown(ended, False) if ended else None

    # -- what is there -----------------------------------------------------------------------------

    @property
    def hosts(self) -> dict[int, str]:
        """The servers' ranks and hosts, as they were when last looked at."""
        if not self._hosts:
            self._hosts = {row.rank: row.host for row in self.client.servers}
        return self._hosts

    def complete(self, line: str) -> list[str]:
        """What the last word of a line may be, if the line begins with one of our magics."""
        name, space, rest = line.lstrip("%").partition(" ")
        if not line.startswith("%"):
            return []
        if not space:
            return [known for known in NAMES if known.startswith(name)]
        if name not in NAMES:
            return []
        words = rest.split()
        fresh = not words or rest[-1].isspace()
        if fresh:
            words.append("")
        before = [word for word in words[:-1] if word not in _OPTIONS]
        if name == "results" or name == "servers" or before:
            return [str(id) for id in self._unfetched] if name == "results" else []
        if words[-1].startswith("-"):
            return [option for option in _OPTIONS if name == "on" and option.startswith(words[-1])]
        chosen, _, last = words[-1].rpartition(",")
        known = [str(rank) for rank in self.hosts]
        if not chosen:
            known += ["all", *(["any"] if name == "on" else []), *dict.fromkeys(self.hosts.values())]
        return [word for word in known if word.startswith(last) and word not in chosen.split(",")]


# -- reading ---------------------------------------------------------------------------------------


def split_on(line: str, cell: str | None) -> tuple[bool, str, str]:
    """(block, target, code) of what stands behind `%on`; the code is the cell's, if there is one.

    Raises CommandArgumentError.
    """
    block, rest = True, line.strip()
    while rest.startswith("--"):
        option, _, rest = rest.partition(" ")
        rest = rest.lstrip()
        if option not in _OPTIONS:
            near = difflib.get_close_matches(option, _OPTIONS, 1)
            hint = f"; did you mean {near[0]}?" if near else ""
            raise CommandArgumentError(
                f"%on knows no option {option}{hint} It has --block (the default) and --async"
            )
        block = option == "--block"
    target, _, code = rest.partition(" ")
    # Spaces after commas are forgiven: `1, 2 code`.
    while target.endswith(",") and code:
        more, _, code = code.lstrip().partition(" ")
        target += more
    if not target:
        raise CommandArgumentError("%on needs a target: a rank, several (1,2 or 1-4), all, any, or a host")
    if cell is not None:
        if code.strip():
            raise CommandArgumentError("%%on has its code on the lines below, not beside the target")
        code = textwrap.dedent(cell)
    if not code.strip():
        raise CommandArgumentError(f"%on {target} needs code to run, as in `%on {target} 1 + 1`")
    return block, target, code.strip("\n") if cell is not None else code.strip()


def parse_target(text: str, hosts: dict[int, str]) -> Any:
    """What `target=` is to be: "all", None for "any", or a list of ranks. Raises TargetError."""
    if text == "all":
        return "all"
    if text == "any":
        return None
    ranks: list[int] = []
    for word in text.split(","):
        first, dash, last = word.partition("-")
        on_host = [rank for rank, host in hosts.items() if word in (host, host.partition(".")[0])]
        if on_host:
            ranks += on_host
        elif word.isdigit():
            ranks.append(int(word))
        elif dash and first.isdigit() and last.isdigit() and int(first) <= int(last):
            if int(last) not in hosts:  # before a million of them are made
                raise TargetError(f"there is no server {last}; {_choices(hosts)}")
            ranks += range(int(first), int(last) + 1)
        else:
            near = difflib.get_close_matches(word, ["all", "any", *hosts.values()], 1)
            hint = f", did you mean {near[0]}?" if near else ";"
            raise TargetError(f"{word!r} is no target{hint} {_choices(hosts)}")
    return list(dict.fromkeys(ranks))


def _choices(hosts: dict[int, str]) -> str:
    names = ", ".join(dict.fromkeys(hosts.values()))
    return f"choose all, any, ranks ({_ranges(list(hosts))}), or a host ({names})"


def _parse_ids(text: str) -> list[int]:
    words = text.replace(",", " ").split()
    wrong = [word for word in words if not word.isdigit()]
    if wrong:
        raise RequestError(f"{wrong[0]!r} is no request id; give numbers, as in `%results 3,4`")
    return list(dict.fromkeys(map(int, words)))


# -- showing ---------------------------------------------------------------------------------------


def _shown(responses: Sequence[Any], quiet: bool) -> Values | None:
    """The values that are not None; raises the errors together, and shows the values before that."""
    bad = [r for r in responses if not r.successful]
    good = [r for r in responses if r.successful]
    values = None
    if any(r.ret is not None for r in good) and not quiet:
        values = Values([r.ret for r in good], [r.server for r in good])
    if not bad:
        return values
    if values is not None:
        print(values, flush=True)
    if len(bad) == 1:
        raise bad[0].error
    texts: dict[str, list[int | None]] = {}
    for response in bad:
        text = (response.traceback or str(response.error)).rstrip()
        # Each server counts its commands, and what is the same should not look different for that.
        texts.setdefault(_NUMBERED.sub(r'File "<\1>"', text), []).append(response.server)
    parts = [f"On server{'s' * (len(where) > 1)} {_ranges(where)}:\n{text}" for text, where in texts.items()]
    first = bad[0]
    raise CommandError(
        f"{len(bad)} of {len(responses)} servers failed\n\n" + "\n\n".join(parts),
        request=first.id,
        server=first.server,
        host=first.host,
        remote_traceback=first.traceback,
    ) from first.error


def _requests(ids: list[int]) -> str:
    return f"request{'s' * (len(ids) > 1)} {_ranges(ids)}"


def _ranges(numbers: Sequence[int | None]) -> str:
    """1-3, 7"""
    runs: list[list[int]] = []
    for number in sorted(n for n in numbers if n is not None):
        if runs and runs[-1][1] == number - 1:
            runs[-1][1] = number
        else:
            runs.append([number, number])
    return ", ".join(str(a) if a == b else f"{a}-{b}" if b > a + 1 else f"{a}, {b}" for a, b in runs)


def _pretty(value: Any, width: int) -> str:
    pretty = sys.modules.get("IPython.lib.pretty")
    if pretty is None:
        return repr(value)
    return str(pretty.pretty(value, max_width=max(width - 8, 20)))


def _beside(label: str, text: str) -> str:
    return label + text.replace("\n", "\n" + " " * len(label))


# -- IPython ---------------------------------------------------------------------------------------


def load(client: Any, shell: Any = None) -> Magics | None:
    """Give IPython's prompt, or the notebook, these magics for this client; None where there is no IPython.

    A later call puts another client behind them.
    """
    if shell is None:
        ipython = sys.modules.get("IPython")
        shell = ipython.get_ipython() if ipython is not None else None
    if shell is None:
        return None
    magics = Magics(client)
    _register(shell, magics)
    return magics


def _register(shell: Any, magics: Magics) -> None:
    from IPython.core.magic import no_var_expand

    from mpiframe.shell import tracebacks

    for name in NAMES:
        method = getattr(magics, name)

        def run(line: str, method: Callable[..., Any] = method) -> Any:
            return method(line)

        def run_cell(line: str, cell: str | None = None, method: Callable[..., Any] = method) -> Any:
            return method(line, cell)

        function = no_var_expand(run_cell if name == "on" else run)
        function.__doc__ = __doc__ if name == "on" else method.__doc__
        shell.register_magic_function(function, "line_cell" if name == "on" else "line", name)

    matchers = shell.Completer.custom_matchers
    matchers[:] = [matcher for matcher in matchers if getattr(matcher, "matcher_identifier", "") != _MATCHER]
    matchers.append(_matcher(magics))
    tracebacks.install(shell)


def _matcher(magics: Magics) -> Any:
    """How IPython asks what a word may be; alone where there is an answer, for what follows is no Python."""
    from IPython.core.completer import SimpleCompletion, context_matcher

    def matcher(context: Any) -> Any:
        line = context.line_with_cursor[: context.cursor_position]
        found = magics.complete("%" + line.lstrip("%")) if " " in line else []
        return {
            "completions": [SimpleCompletion(text=text, type="server") for text in found],
            "matched_fragment": re.split("[ ,]", line)[-1],
            "suppress": bool(found),
        }

    return context_matcher(identifier=_MATCHER, priority=1000)(matcher)
