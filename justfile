# What a contributor runs. `just check` is all of CI but the clean machine; see CONTRIBUTING.md.

# Style, then tests.
check: style test

# Everything that reads the code without running it.
style:
    ruff check .
    ruff format --check .
    mypy
    lint-imports
    find native -name '*.cc' -o -name '*.h' | xargs clang-format --dry-run -Werror

# Bring the code into the form that `style` asks for.
format:
    ruff check --fix .
    ruff format .
    find native -name '*.cc' -o -name '*.h' | xargs clang-format -i

# The tests; arguments go to pytest: `just test --slow`, `just test tests/cli`.
test *arguments:
    pytest {{arguments}}

# Print the reference pages from the code.
docs:
    python docs/reference/print_pages.py
    python docs/reference/print_sampling.py

# Python tests on an extension with AddressSanitizer and UndefinedBehaviorSanitizer; arguments go to pytest.
sanitized *arguments:
    python tests/sanitized.py {{arguments}}

# How fast it starts, and how large it is.
startup:
    python benchmarks/startup/run.py

# This engine beside its peers, after `python benchmarks/peers/setup.py`: `just peers --widths int8 --rounds 3`.
peers *arguments:
    python benchmarks/peers/run.py {{arguments}}
