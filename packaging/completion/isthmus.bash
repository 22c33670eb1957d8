# SPDX-License-Identifier: Apache-2.0
# Bash completion of isthmus.

@WORDS@
_isthmus_values() {
    local text=$1 option=$2 word=$3 value
    value=$(_isthmus_value "$option" <<<"$text")
    case $value in
    *FILE* | *SOCKET* | *PATH* | *DIR* | *FOLDER*)
        compopt -o filenames 2>/dev/null
        mapfile -t COMPREPLY < <(compgen -f -- "$word")
        ;;
    *'|'*) mapfile -t COMPREPLY < <(compgen -W "${value//|/ }" -- "$word") ;;
    *) COMPREPLY=() ;;
    esac
}

_isthmus() {
    local cur prev words cword text option
    _init_completion -n =: || return
    local command=("${words[0]}") i
    for ((i = 1; i < cword && i < 3; i++)); do
        [[ ${words[i]} == -* ]] && break
        grep -qx -- "${words[i]}" < <(_isthmus_help "${command[@]}" | _isthmus_members) || break
        command+=("${words[i]}")
    done
    text=$(_isthmus_help "${command[@]}")
    if [[ $cur == --*=* ]]; then
        option=${cur%%=*}
        _isthmus_values "$text" "$option" "${cur#*=}"
        # Bash takes = for the end of a word where it is among COMP_WORDBREAKS.
        [[ $COMP_WORDBREAKS == *=* ]] || COMPREPLY=("${COMPREPLY[@]/#/$option=}")
    elif [[ $prev == --?* ]] && [[ -n $(_isthmus_value "$prev" <<<"$text") ]]; then
        _isthmus_values "$text" "$prev" "$cur"
    elif [[ $prev == -[a-z] ]] && option=$(grep -oE -- "^ +$prev, --[a-z-]+=" <<<"$text"); then
        option=${option#*, }
        _isthmus_values "$text" "${option%=}" "$cur"
    elif [[ $cur == -* ]]; then
        mapfile -t COMPREPLY < <(compgen -W "$(grep -oE -- '(^|[ ,])--[a-z][a-z-]+' <<<"$text" | tr -d ' ,')" -- "$cur")
    else
        mapfile -t COMPREPLY < <(compgen -W "$(_isthmus_members <<<"$text"
            _isthmus_words "$text" "${command[@]}")" -- "$cur")
        [[ ${#COMPREPLY[@]} -gt 0 ]] || { compopt -o filenames 2>/dev/null; mapfile -t COMPREPLY < <(compgen -f -- "$cur"); }
    fi
}
complete -F _isthmus isthmus
