(* SPDX-License-Identifier: LGPL-2.1-or-later *)
(* /etc/libvirt/kumo.conf *)

module Libvirtd_kumo =
   autoload xfm

   let eol = del /[ \t]*\n/ "\n"
   let equals = del /[ \t]*=[ \t]*/ " = "
   let comma = del /,[ \t\n]*/ ", "
   let quoted = del "\"" "\"" . store /[^"\n]*/ . del "\"" "\""
   let element = [ seq "element" . quoted ] . del /[ \t\n]*/ ""
   let list = del /\[[ \t\n]*/ "[" . element . ( comma . element )* . del "]" "]"

   let text (names:regexp) = [ key names . equals . quoted . eol ]
   let number (names:regexp) = [ key names . equals . store /[0-9]+/ . eol ]
   let integer (names:regexp) = [ key names . equals . store /-?[0-9]+/ . eol ]
   let switch (names:regexp) = [ key names . equals . store /[01]/ . eol ]
   let texts (names:regexp) = [ key names . equals . counter "element" . list . eol ]
   let text_or_texts (names:regexp) = [ key names . equals . ( quoted | counter "element" . list ) . eol ]

   let setting = text /binary|firmware|user|group|seccomp|memory_backing_dir|save_image_format|migration_host|migration_address|migrate_tls_x509_cert_dir/
               | number /log_level|timeout|migration_port_min|migration_port_max|migration_connect_timeout|keepalive_count/
               | integer "keepalive_interval"
               | switch "dynamic_ownership"
               | text_or_texts "security_driver"
               | texts "cgroup_controllers"

   let comment = [ label "#comment" . del /#[ \t]*/ "# " . store /([^ \t\n][^\n]*)?/ . del "\n" "\n" ]
   let empty = [ label "#empty" . eol ]

   let lns = ( setting | comment | empty )*

   let xfm = transform lns (incl "/etc/libvirt/kumo.conf")
