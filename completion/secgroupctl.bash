# bash completion for secgroupctl(1). Verbs and options are what the program's own help names.

_secgroupctl() {
    local cur prev words cword verb="" at
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
        --ethertype)
            COMPREPLY=($(compgen -W "IPv4 IPv6" -- "$cur"))
            return
            ;;
        --direction)
            COMPREPLY=($(compgen -W "ingress egress" -- "$cur"))
            return
            ;;
        --sort)
            COMPREPLY=($(compgen -W "order hits" -- "$cur"))
            return
            ;;
        import)
            COMPREPLY=($(compgen -W "huawei openstack aws" -- "$cur"))
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
