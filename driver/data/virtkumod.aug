(* SPDX-License-Identifier: LGPL-2.1-or-later *)
(* /etc/libvirt/virtkumod.conf: the settings that every libvirt daemon has *)

module Virtkumod =
   autoload xfm

   let eol = del /[ \t]*\n/ "\n"
   let equals = del /[ \t]*=[ \t]*/ " = "
   let comma = del /,[ \t\n]*/ ", "
   let quoted = del "\"" "\"" . store /[^"\n]*/ . del "\"" "\""
   let element = [ seq "element" . quoted ] . del /[ \t\n]*/ ""
   let list = del /\[[ \t\n]*/ "[" . ( element . ( comma . element )* )? . del "]" "]"

   let text (names:regexp) = [ key names . equals . quoted . eol ]
   let number (names:regexp) = [ key names . equals . store /-?[0-9]+/ . eol ]
   let switch (names:regexp) = [ key names . equals . store /[01]/ . eol ]
   let texts (names:regexp) = [ key names . equals . counter "element" . list . eol ]

   let sockets = text /unix_sock_(group|ro_perms|rw_perms|admin_perms|dir)/
   let who = text /auth_unix_(ro|rw)/ | texts /access_drivers|sasl_allowed_username_list/
   let work = number /(admin_)?(min_workers|max_workers|max_clients|max_queued_clients|max_client_requests)/
            | number /prio_workers|max_anonymous_clients/
   let logs = number /log_level|audit_level/ | text /log_filters|log_outputs/ | switch "audit_logging"
   let keepalive = number /(admin_)?keepalive_(interval|count)/ | switch /(admin_)?keepalive_required/
   let host = text /host_uuid(_source)?/ | number "ovs_timeout"

   let comment = [ label "#comment" . del /#[ \t]*/ "# " . store /([^ \t\n][^\n]*)?/ . del "\n" "\n" ]
   let empty = [ label "#empty" . eol ]

   let lns = ( sockets | who | work | logs | keepalive | host | comment | empty )*

   let xfm = transform lns (incl "/etc/libvirt/virtkumod.conf")
