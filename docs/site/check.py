"""Look at the site that was made: links that lead nowhere, things fetched from elsewhere, pictures without a text.

    python docs/site/check.py build/site

Says what is wrong and ends with status 1, or says how many pages there are.
"""

import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

NOT_OURS = ("_static/", "docs/review.html", "docs/audit/")  # the theme's, and pages that are written elsewhere


class Page(HTMLParser):
    """The addresses on a page, what can be led to on it, and its pictures without a text."""

    def __init__(self, file: Path) -> None:
        super().__init__()
        self.links: list[str] = []
        self.loaded: list[str] = []
        self.places: set[str] = set()
        self.silent: list[str] = []
        self.feed(file.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Keep what the page names."""
        given = dict(attrs)
        self.places.add(given.get("id") or given.get("name") or "")
        if tag == "a" and given.get("href"):
            self.links.append(given["href"] or "")
        elif tag == "link" and given.get("rel") != "canonical":
            self.loaded.append(given.get("href") or "")
        elif given.get("src"):
            self.loaded.append(given["src"] or "")
        if tag == "img" and not given.get("alt"):
            self.silent.append(given.get("src") or "")


def wrong(site: Path) -> list[str]:
    """What is wrong with a site, in sentences."""
    names = {file: file.relative_to(site).as_posix() for file in sorted(site.rglob("*.html"))}
    pages = {file: Page(file) for file, name in names.items() if not name.startswith(NOT_OURS)}
    found = []
    for file, page in pages.items():
        name = names[file]
        found += [f"{name}: the picture {each} has no text." for each in page.silent]
        for address in page.loaded:
            if urlsplit(address).netloc:
                found.append(f"{name} loads {address}: the site must work without a connection.")
        for address in [*page.links, *page.loaded]:
            parts = urlsplit(address)
            if parts.scheme or parts.netloc:
                continue
            target = (file.parent / unquote(parts.path)).resolve() if parts.path else file.resolve()
            there = pages.get(target)
            if not target.is_file() or (parts.fragment and there and unquote(parts.fragment) not in there.places):
                found.append(f"{name}: {address} leads nowhere.")
    return found


def main(site: Path) -> int:
    """Check a site; the exit status."""
    found = wrong(site.resolve())
    print("\n".join(found), file=sys.stderr, end="\n" if found else "")
    pages = len(list(site.rglob("*.html")))
    size = sum(file.stat().st_size for file in site.rglob("*") if file.is_file()) / 1e6
    print(f"{pages} pages, {size:.0f} MB, {len(found)} findings: open {site}/index.html")
    return bool(found)


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
