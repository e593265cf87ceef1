"""What all commands have in common: help with examples, JSON, completion, and progress bars on terminals only."""

from __future__ import annotations

import argparse
import io
import json
import shlex
import subprocess
import sys
from pathlib import Path

import jsonschema
import pytest
import yaml

from docker_registry.cli import COMMANDS, build_parser, main
from docker_registry.cli.guide import GUIDES, OVERVIEW
from docker_registry.cli.progress import ProgressBar, ProgressLine, counted

ROOT = Path(__file__).parent.parent.parent

#: Commands that run until they are stopped, whose output has its own format, or that do nothing.
WITHOUT_JSON = {"serve", "diff-worker", "completion", "keys export", "garbage-collect"}


def leaves(parser, name=""):
    """Yield the parsers of all commands and their actions, by name."""
    nested = [action for action in parser._actions if isinstance(action, argparse._SubParsersAction)]
    if not nested:
        yield name, parser
    for action in nested:
        for word, child in action.choices.items():
            yield from leaves(child, f"{name} {word}".strip())


def arguments_of(example):
    """Return the arguments of the commands in an example, without those of the shell."""
    for words in " ; ".join(example.replace("&&", "|").split("|")).split(";"):
        found = [word for word in shlex.split(words) if "=" not in word or word.startswith("-") or ":" in word]
        if found[:1] == ["docker-registry"] and found[1:2] != ["COMMAND"]:
            yield found[1 : found.index(">")] if ">" in found else found[1:]


class TestTheHelp:
    def test_of_each_command_has_examples_that_work(self):
        assert {command.name for command in COMMANDS} == set(GUIDES)
        parser = build_parser()
        for name, guide in {**GUIDES, "": OVERVIEW}.items():
            parsed = [parser.parse_args(words) for example, _ in guide.examples for words in arguments_of(example)]
            assert parsed
            assert not name or {name} == {one.command.name for one in parsed if hasattr(one, "command")}

    def test_names_variables_that_exist(self):
        known = (ROOT / "config/config_sample.yml").read_text()
        known += "".join((ROOT / "docs" / name).read_text() for name in ("operations.md", "proxies.md"))
        assert set() == {
            name for guide in (*GUIDES.values(), OVERVIEW) for name in guide.variables if name not in known
        }

    def test_is_printed(self, capsys):
        with pytest.raises(SystemExit):
            main(["readonly", "--help"])
        text = capsys.readouterr().out
        assert "examples:\n  # refuse writes on all hosts\n  docker-registry readonly on --why 'Moving" in text
        assert "STORAGE_PATH" in text


class TestJson:
    def test_is_offered_by_all_commands_that_report(self):
        without = {name for name, parser in leaves(build_parser()) if "--json" not in parser._option_string_actions}
        assert WITHOUT_JSON == without

    def test_is_one_document(self, tmp_path, monkeypatch, capsys):
        for name, value in {"STORAGE_PATH": str(tmp_path / "s"), "SEARCH_BACKEND": "", "REGISTRY_PORT": "1"}.items():
            monkeypatch.setenv(name, value)

        def run(*arguments):
            assert 0 == main([*arguments, "--json"])
            return json.loads(capsys.readouterr().out)

        assert "file" == run("config")["dev"]["storage"]
        assert {"private_repositories": 0, "indexed_repositories": None} == run("reindex")
        assert 0 == run("migrate", "--dry-run")["migrated"]
        monkeypatch.setenv("REGISTRY_AUTH_HTPASSWD", str(tmp_path / "users"))
        monkeypatch.setattr("sys.stdin", io.StringIO("correct horse\n"))
        assert {"user": "alice", "done": "added"} == run("user", "add", "alice")
        assert {"user": "alice", "done": "removed"} == run("user", "remove", "alice")


@pytest.fixture(scope="module")
def validator():
    done = subprocess.run(
        [sys.executable, "-c", "from docker_registry.cli import main; main(['config', '--schema'])"],
        cwd=ROOT, capture_output=True, text=True, check=True,
    )  # fmt: skip
    schema = json.loads(done.stdout)
    jsonschema.Draft202012Validator.check_schema(schema)
    return jsonschema.Draft202012Validator(schema)


class TestTheSchema:
    def test_accepts_the_sample(self, validator):
        sample = yaml.safe_load((ROOT / "config/config_sample.yml").read_text())
        assert [] == [error.json_path for error in validator.iter_errors(sample)]

    def test_accepts_every_way_to_write_a_value(self, validator):
        flavor = {"upload_ttl": "7d", "max_manifest_bytes": "4MiB", "v1": "no", "trusted_proxies": "::1, 10.0.0.0/8"}
        validator.validate({"dev": {**flavor, "loglevel": "_env:LEVEL:debug", "boto_debug": True, "cache": None}})
        validator.validate({"dev": {"loglevel": "INFO", "tls": {"minimum_version": 1.2}, "immutable_tags": 1.0}})

    @pytest.mark.parametrize(
        "flavor",
        [
            {"logelvel": "info"},
            {"loglevel": "loud"},
            {"tls": {"minimum_version": 1.1}},
            {"v1": "maybe"},
            {"cache": {"prot": 6379}},
            {"drain_delay": -1},
            {"upload_ttl": "7 days"},
        ],
    )
    def test_rejects_mistakes(self, validator, flavor):
        assert not validator.is_valid({"dev": flavor})


class TestCompletion:
    @pytest.mark.parametrize("shell", ["bash", "zsh", "tcsh"])
    def test_has_a_script_for_each_shell(self, shell, capsys):
        assert 0 == main(["completion", shell])
        assert "readonly" in capsys.readouterr().out

    def test_completes_in_bash(self, tmp_path, capsys):
        main(["completion", "bash"])
        (tmp_path / "script").write_text(capsys.readouterr().out)
        program = "source ./script; COMP_WORDS=(docker-registry read); COMP_CWORD=1; _shtab_docker_registry; "
        program += 'echo "${COMPREPLY[@]}"'
        done = subprocess.run(["bash", "-c", program], cwd=tmp_path, capture_output=True, text=True)
        assert "readonly\n" == done.stdout, done.stderr

    def test_of_an_unknown_shell_is_wrong_usage(self):
        with pytest.raises(SystemExit, match="2"):
            main(["completion", "fish"])


class Terminal(io.StringIO):
    def isatty(self):
        return True


class TestProgress:
    @pytest.mark.parametrize(("stream", "is_shown"), [(Terminal, True), (io.StringIO, False)])
    def test_is_shown_on_terminals(self, stream, is_shown, monkeypatch):
        shown = stream()
        monkeypatch.setattr("sys.stderr", shown)
        bar, line = ProgressBar("images"), ProgressLine()
        for done in (1, 2, 3):
            bar.show(done, 3)
            line.show(done, done * 1_000_000)
        bar.end()
        line.end()
        assert [1, 2] == list(counted([1, 2], "repositories"))
        parts = ("3/3", "images", "3.0 MB copied", "2 repositories")
        assert [is_shown] * 4 == [part in shown.getvalue() for part in parts]


class TestAnInterruption:
    def test_leaves_work(self, monkeypatch, capsys):
        def interrupted(_):
            raise KeyboardInterrupt

        monkeypatch.setattr("docker_registry.config.schema.load_config", interrupted)
        assert 1 == main(["config"])
        assert "docker-registry: interrupted\n" == capsys.readouterr().err

    def test_of_a_pipe_prints_no_traceback(self):
        program = f"{shlex.quote(sys.executable)} -c 'import sys; from docker_registry.cli import main; "
        program += "sys.exit(main())' config --schema | head -c 1"
        done = subprocess.run(["bash", "-c", program], cwd=ROOT, capture_output=True, text=True)
        assert ("{", "") == (done.stdout, done.stderr)
