"""How errors read in IPython without any magics: the user's own lines, what happened, and nothing of ours."""

from __future__ import annotations

from tests.conftest import Launcher

SCRIPT = """
    import contextlib, io
    from IPython.core.interactiveshell import InteractiveShell
    import mpiframe

    shell = InteractiveShell.instance(colors="nocolor")

    def cell(text):
        out = io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(out):
            shell.run_cell(text, store_history=True)
        return out.getvalue()

    def readable(text):
        for ours in ("verbs.py", "answers.py", "mapping.py", "driver.py", "interactiveshell.py"):
            assert ours not in text, text
        return text

    with mpiframe.Client() as client:
        shell.user_ns["client"] = client
        cell('''def invert(x):
        divisor = x
        return 1 / divisor

    def call():
        return client.submit(invert, 0).result()''')
        text = readable(cell("call()"))
        assert "----> 1 call()" in text and "return client.submit(invert, 0).result()" in text, text
        assert "raised ZeroDivisionError: division by zero" in text, text
        assert "Cell In[1], line 3, in invert" in text and "return 1 / divisor" in text, text
        assert text.count("CommandError") == 2 and "direct cause" not in text, text
        text = readable(cell("list(client.map(invert, [1, 0]))"))
        assert "item 1 of the map" in text, text
        assert "there is no request 99" in readable(cell("client.get(99)"))
        assert "RequestError" in readable(cell("client.get(99)"))
        shell.user_ns["mpiframe"] = mpiframe
        text = cell("try:\\n    call()\\nexcept mpiframe.CommandError as e:\\n    print(repr(e.__cause__))")
        assert text == "ZeroDivisionError('division by zero')\\n", text
        # It is the same error afterwards.
        text = cell("try:\\n    call()\\nexcept mpiframe.CommandError as e:\\n    kept = e")
        assert len(shell.user_ns["kept"]._render_traceback_()) > 0
        assert isinstance(shell.user_ns["kept"].__cause__, ZeroDivisionError)
        assert "rank" in cell("client.servers")
        assert "<Response" in cell("client.push('1', 1, block=True)")
        print("all errors are readable")
"""


def test_errors_show_the_users_own_lines(launcher: Launcher) -> None:
    ended = launcher.run(SCRIPT, 3, env={"COLUMNS": "100"}).expect(0)
    assert "all errors are readable" in ended.stdout
