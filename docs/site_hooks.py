"""What the site has beside the pages: the README as its home, and files that pages link to.

MkDocs calls these functions; mkdocs.yml names this file.
"""

import pathlib
import re

from mkdocs.structure.files import File

ROOT = pathlib.Path(__file__).parents[1]
DOCS = ROOT / "docs"
HOME = "index.md"
LINK = re.compile(r"(?<=\]\()(?!\w+:|#)([^)#\s]+)")
LANGUAGES = {".json": "json", ".py": "python"}


def on_files(files, config):
    """Adds the README, and a page for each file of the repository that a page links to."""
    files.append(File.generated(config, HOME, content=read(ROOT / "README.md")))
    for path in sorted(set().union(*map(linked_files, files.documentation_pages()))):
        files.append(File.generated(config, address(path), content=draw(path)))
    return files


def on_page_markdown(markdown, page, config, files):
    """Leads the links of a page to where the site has what they name."""
    if page.file.src_uri.startswith("source/"):
        return markdown
    return LINK.sub(lambda found: address(target(page.file, found[1])), markdown)


def linked_files(file):
    """Returns the paths of the files outside docs/ that a page links to."""
    paths = (target(file, link) for link in LINK.findall(file.content_string))
    return {path for path in paths if path.is_file() and not path.is_relative_to(DOCS)}


def target(file, link):
    """Returns the path that a link of a page leads to in the repository."""
    folder = ROOT if file.src_uri == HOME else DOCS
    return (folder / link).resolve()


def address(path):
    """Returns where the site has a file of the repository, seen from a page in docs/."""
    if path.is_relative_to(DOCS):
        return path.relative_to(DOCS).as_posix()
    return f"source/{path.relative_to(ROOT).as_posix()}.md"


def draw(path):
    """Returns a file of the repository as a page, which a search does not find."""
    title = f"---\nsearch:\n  exclude: true\n---\n\n# {path.relative_to(ROOT)}\n\n"
    if path.suffix == ".md":
        return title + LINK.sub("", read(path))
    return f"{title}~~~~{LANGUAGES.get(path.suffix, 'text')}\n{read(path)}\n~~~~\n"


def read(path):
    """Returns a file's text."""
    return path.read_text(encoding="utf-8")
