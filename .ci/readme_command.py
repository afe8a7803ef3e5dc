"""Print one of the two commands of README.md: the code block after `<!-- command: NAME -->`."""

import pathlib
import re
import sys

text = pathlib.Path("README.md").read_text(encoding="utf-8")
match = re.search(rf"<!-- command: {sys.argv[1]} -->\s*```[a-z]*\n(.*?)\n```", text, re.S)
if match is None:
    sys.exit(f"README.md has no command named {sys.argv[1]}")
print(match.group(1).strip())
