(* SPDX-License-Identifier: LGPL-2.1-or-later *)
module Test_virtkumod =
   let conf = "# Who may use it.
auth_unix_ro = \"none\"
auth_unix_rw=\"polkit\"

unix_sock_rw_perms = \"0770\"
access_drivers = [ \"polkit\", \"nop\" ]
sasl_allowed_username_list = [ ]
max_clients = 100
admin_keepalive_interval = -1
audit_logging = 1
log_filters = \"1:kumo 3:event\"
host_uuid_source = \"machine-id\"
"

   test Virtkumod.lns get conf =
      { "#comment" = "Who may use it." }
      { "auth_unix_ro" = "none" }
      { "auth_unix_rw" = "polkit" }
      { "#empty" }
      { "unix_sock_rw_perms" = "0770" }
      { "access_drivers" { "1" = "polkit" } { "2" = "nop" } }
      { "sasl_allowed_username_list" }
      { "max_clients" = "100" }
      { "admin_keepalive_interval" = "-1" }
      { "audit_logging" = "1" }
      { "log_filters" = "1:kumo 3:event" }
      { "host_uuid_source" = "machine-id" }

   test Virtkumod.lns put "auth_unix_rw = \"polkit\"\n" after set "/auth_unix_rw" "none" = "auth_unix_rw = \"none\"\n"
   test Virtkumod.lns get "listen_tcp = 1\n" = *
