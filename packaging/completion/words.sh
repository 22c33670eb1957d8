# SPDX-License-Identifier: Apache-2.0
# Of both shells. It asks the program: what --help lists is what can be completed, and a value as it is written
# there (FILE, or one|another) says what its option takes.

_isthmus_help() {
    "$@" --help 2>/dev/null
}

# Commands (or a group's members) that a help text lists.
_isthmus_members() {
    sed -n '/s:$/,/^$/s/^  \([a-z][a-z-]*\)  *[^ ].*/\1/p'
}

# Words that a help text says come behind: one|another of its usage, or what is "short for one" there. A
# process that serves knows its methods, too.
_isthmus_words() {
    local text=$1
    shift
    sed -n '/^Usage: /{s/^Usage: //;p;q}' <<<"$text" | tr ' ' '\n' | grep -E '^[a-z]+(\|[a-z]+)+$' | tr '|' '\n'
    tr '\n' ' ' <<<"$text" | grep -oE 'short for one: [a-z, ]+\.' | sed 's/.*: //; s/\.$//' | tr -s ', ' '\n'
    [[ $2 == ctl ]] && "$@" --json methods 2>/dev/null | grep -oE '"name": ?"[a-z.]+"' | grep -oE '[a-z.]+"$' | tr -d '"'
}

# The value that a help text says an option takes: --kv=f16|q8 -> f16|q8.
_isthmus_value() {
    grep -oE -- "(^|[ ,])$1=[^ ]+" | head -n 1 | sed 's/^[^=]*=//'
}
