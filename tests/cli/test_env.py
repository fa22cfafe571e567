"""`sentilora env`: the text for a bug report, without secrets."""

from commands import run


def test_env_is_the_text_for_a_bug_report():
    code, stdout, _ = run("env")
    lines = dict(line.split(maxsplit=1) for line in stdout.splitlines())
    assert code == 0
    assert {"sentilora", "python", "torch", "transformers", "peft", "bitsandbytes", "hub", "dtype",
            "HF_TOKEN"} <= set(lines)  # fmt: skip
    assert lines["hub"] == "http://127.0.0.1:9 NOT reachable"


def test_env_never_shows_a_token(monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    code, stdout, stderr = run("env")
    assert code == 0 and "hf_secret" not in stdout + stderr
