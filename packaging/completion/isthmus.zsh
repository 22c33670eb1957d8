#compdef isthmus
# SPDX-License-Identifier: Apache-2.0
# Zsh completion of isthmus.

@WORDS@
_isthmus_values() {
    local value=$(_isthmus_value $2 <<<$1)
    case $value in
    *FILE* | *SOCKET* | *PATH* | *DIR* | *FOLDER*) _files ;;
    *'|'*) compadd -- ${(s:|:)value} ;;
    *) return 1 ;;
    esac
}

_isthmus() {
    emulate -L zsh
    local cur=${words[CURRENT]} prev=${words[CURRENT-1]} text option i
    local -a command=(${words[1]}) found
    for ((i = 2; i < CURRENT && i < 4; i++)); do
        [[ ${words[i]} == -* ]] && break
        _isthmus_help $command | _isthmus_members | grep -qx -- ${words[i]} || break
        command+=(${words[i]})
    done
    text=$(_isthmus_help $command)
    if [[ $cur == --*=* ]]; then
        compset -P '*='
        _isthmus_values $text ${cur%%=*}
    elif [[ $prev == --?* && -n $(_isthmus_value $prev <<<$text) ]]; then
        _isthmus_values $text $prev
    elif [[ $prev == -[a-z] ]] && option=$(grep -oE -- "^ +$prev, --[a-z-]+=" <<<$text); then
        option=${option#*, }
        _isthmus_values $text ${option%=}
    elif [[ $cur == -* ]]; then
        compadd -- $(grep -oE -- '(^|[ ,])--[a-z][a-z-]+' <<<$text | tr -d ' ,')
    else
        found=($(_isthmus_members <<<$text) $(_isthmus_words $text $command))
        compadd -- $found || _files
    fi
}

_isthmus "$@"
