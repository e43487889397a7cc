"""Downloads against a small server on this machine: resume, mirrors, checksums, offline."""

from __future__ import annotations

import hashlib
import http.server
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from fedjax_sim.core.checks import InputError
from fedjax_sim.data.readers.cache import Source, cache_folder, locate

CONTENT = bytes(range(256)) * 1024
MD5 = "md5:" + hashlib.md5(CONTENT, usedforsecurity=False).hexdigest()
SHA = "sha256:" + hashlib.sha256(CONTENT).hexdigest()


class Handler(http.server.BaseHTTPRequestHandler):
    """/ranged resumes, /plain does not, /wrong and /cut are faulty, anything else is 404."""

    asked: list[tuple[str, str | None]]

    def do_GET(self) -> None:
        wanted = self.headers.get("Range")
        self.server.asked.append((self.path, wanted))  # type: ignore[attr-defined]
        body, status, extra = CONTENT, 200, {}
        if self.path == "/wrong":
            body = CONTENT[::-1]
        elif self.path in ("/ranged", "/elsewhere") and wanted:
            start = int(wanted.removeprefix("bytes=").removesuffix("-"))
            if start >= len(CONTENT):
                self.send_error(416)
                return
            shown = start + (7 if self.path == "/elsewhere" else 0)
            body, status = CONTENT[shown:], 206
            extra = {"Content-Range": f"bytes {shown}-{len(CONTENT) - 1}/{len(CONTENT)}"}
        elif self.path not in ("/ranged", "/plain", "/cut", "/elsewhere"):
            self.send_error(404)
            return
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        for name, value in extra.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body[: len(body) // 2] if self.path == "/cut" else body)

    def log_message(self, format: str, *args: Any) -> None:
        del format, args


@pytest.fixture
def server() -> Iterator[Any]:
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as httpd:
        httpd.asked = []  # type: ignore[attr-defined]
        thread = threading.Thread(target=httpd.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield httpd
        httpd.shutdown()
        thread.join()


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.delenv("FEDJAX_SIM_DATA", raising=False)
    monkeypatch.setenv("FEDJAX_SIM_CACHE", str(tmp_path / "cache"))
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.setenv(name, "127.0.0.1")
    return tmp_path / "cache" / "set"


def source(server: Any, *paths: str, checksum: str = MD5) -> Source:
    root = f"http://127.0.0.1:{server.server_port}"
    return Source("set", "file.bin", tuple(root + p for p in paths), checksum)


def part(cache: Path, content: bytes) -> Path:
    cache.mkdir(parents=True, exist_ok=True)
    (cache / "file.bin.part").write_bytes(content)
    return cache / "file.bin.part"


@pytest.mark.parametrize("checksum", [MD5, SHA])
def test_a_file_is_downloaded_once_and_progress_told(
    checksum: str, server: Any, cache: Path
) -> None:
    told: list[tuple[str, int, int | None]] = []
    wanted = source(server, "/plain", checksum=checksum)
    path = locate(wanted, progress=lambda *p: told.append(p))
    assert path == cache / "file.bin" and path.read_bytes() == CONTENT
    assert told[-1] == ("file.bin", len(CONTENT), len(CONTENT))
    assert [t[1] for t in told] == sorted({t[1] for t in told}) and len(told) > 1
    assert locate(wanted) == path and len(server.asked) == 1
    assert [p.name for p in cache.iterdir()] == ["file.bin"]


def test_a_broken_download_goes_on_where_it_stopped(server: Any, cache: Path) -> None:
    with pytest.raises(InputError, match="ended after 131072 of 262144 bytes; call again to go on"):
        locate(source(server, "/cut"), progress=None)
    assert (cache / "file.bin.part").stat().st_size == 131072
    path = locate(source(server, "/ranged"), progress=None)
    assert path.read_bytes() == CONTENT
    assert server.asked[-1] == ("/ranged", "bytes=131072-")


def test_a_mirror_that_cannot_resume_starts_again(server: Any, cache: Path) -> None:
    part(cache, b"x" * 1000)
    assert locate(source(server, "/plain"), progress=None).read_bytes() == CONTENT


def test_a_mirror_that_resumes_elsewhere_is_not_believed(server: Any, cache: Path) -> None:
    part(cache, CONTENT[:1000])
    path = locate(source(server, "/elsewhere", "/ranged"), progress=None)
    assert path.read_bytes() == CONTENT and server.asked[-1] == ("/ranged", None)


@pytest.mark.parametrize("content", [CONTENT, b"?" * len(CONTENT), b"?" * (len(CONTENT) + 5)])
def test_a_whole_part_is_used_if_right_and_dropped_if_wrong(
    content: bytes, server: Any, cache: Path
) -> None:
    part(cache, content)
    assert locate(source(server, "/ranged"), progress=None).read_bytes() == CONTENT
    assert len(server.asked) == (1 if content == CONTENT else 2)


def test_a_wrong_checksum_is_refused_and_the_next_mirror_asked(server: Any, cache: Path) -> None:
    with pytest.raises(InputError, match=f"checksum is md5:.* must be {MD5}"):
        locate(source(server, "/wrong"), progress=None)
    assert list(cache.iterdir()) == []
    path = locate(source(server, "/absent", "/wrong", "/plain"), progress=None)
    assert path.read_bytes() == CONTENT
    assert [a[0] for a in server.asked[1:]] == ["/absent", "/wrong", "/plain"]


def test_offline_the_message_names_file_mirrors_and_place(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    closed = Source("set", "file.bin", ("http://127.0.0.1:9/a", "http://127.0.0.1:9/b"), MD5)
    with pytest.raises(InputError) as caught:
        locate(closed, progress=None)
    message = str(caught.value)
    for words in ("set/file.bin", "http://127.0.0.1:9/a (", "http://127.0.0.1:9/b (", "refused",
                  "set FEDJAX_SIM_DATA to a folder DIR", "DIR/set/file.bin"):  # fmt: skip
        assert words in message
    monkeypatch.setenv("FEDJAX_SIM_DATA", "/elsewhere")
    with pytest.raises(InputError, match=r"put the file at /elsewhere/set/file.bin"):
        locate(closed, progress=None)


def test_an_unwritable_cache_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("not a folder")
    monkeypatch.delenv("FEDJAX_SIM_DATA", raising=False)
    monkeypatch.setenv("FEDJAX_SIM_CACHE", str(tmp_path / "file"))
    with pytest.raises(InputError, match=r"cannot write into .*file/set"):
        locate(Source("set", "file.bin", ("http://127.0.0.1:9/a",), MD5))


def test_the_users_own_copy_comes_first_and_needs_no_checksum(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = tmp_path / "own" / "set" / "file.bin"
    own.parent.mkdir(parents=True)
    own.write_bytes(b"mine")
    cache.mkdir(parents=True)
    (cache / "file.bin").write_bytes(CONTENT)
    monkeypatch.setenv("FEDJAX_SIM_DATA", str(tmp_path / "own"))
    assert locate(Source("set", "file.bin", (), MD5)) == own
    own.unlink()
    assert locate(Source("set", "file.bin", (), MD5)) == cache / "file.bin"


def test_the_cache_folder_follows_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("FEDJAX_SIM_CACHE", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_folder() == tmp_path / "fedjax_sim"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert cache_folder() == Path.home() / ".cache" / "fedjax_sim"
