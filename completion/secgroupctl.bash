# bash completion for secgroupctl(1). Verbs, options and words to choose from are what the program's
# own help names.

_secgroupctl() {
    local cur prev words cword verb="" at choices
    _init_completion || return

    for ((at = 1; at < cword; at++)); do
        case ${words[at]} in
            --config) ((at++)) ;;
            -*) ;;
            *) verb=${words[at]} && break ;;
        esac
    done

    case $prev in
        --config)
            _filedir
            return
            ;;
        --protocol)
            COMPREPLY=($(compgen -W "tcp udp icmp icmpv6 sctp gre" -- "$cur"))
            return
            ;;
        --ethertype | --direction | --sort | import)
            choices=$("$1" "$verb" --help 2>/dev/null | grep -oE -m 1 "^ +${prev#import} *\S+\|\S+")
            choices=${choices##* }
            COMPREPLY=($(compgen -W "${choices//|/ }" -- "$cur"))
            return
            ;;
        --from | --to | --dport | --icmp-* | --confirm | --group)
            return
            ;;
    esac

    if [[ $cur == -* ]]; then
        COMPREPLY=($(compgen -W "$(_parse_help "$1" "$verb --help")" -- "$cur"))
    elif [[ -z $verb ]]; then
        local verbs=$("$1" --help 2>/dev/null | sed -n '/^verbs:/,$ s/^    \([a-z]\+\).*/\1/p')
        COMPREPLY=($(compgen -W "$verbs" -- "$cur"))
    else
        _filedir '@(yaml|yml|json)'
    fi
}

complete -F _secgroupctl secgroupctl
