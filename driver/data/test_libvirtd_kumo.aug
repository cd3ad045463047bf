(* SPDX-License-Identifier: LGPL-2.1-or-later *)
module Test_libvirtd_kumo =
   let conf = "# The virtual machine monitor.
#
binary = \"/usr/bin/kumo\"

user = \"kumo\"
dynamic_ownership = 1
security_driver = [ \"apparmor\", \"none\" ]
timeout=60
cgroup_controllers = [ \"cpu\", \"memory\" ]
memory_backing_dir = \"/dev/shm\"
save_image_format = \"zstd\"
migration_port_min = 50000
migrate_tls_x509_cert_dir = \"/etc/pki/kumo\"
keepalive_interval = -1
keepalive_count = 3
"

   test Libvirtd_kumo.lns get conf =
      { "#comment" = "The virtual machine monitor." }
      { "#comment" = "" }
      { "binary" = "/usr/bin/kumo" }
      { "#empty" }
      { "user" = "kumo" }
      { "dynamic_ownership" = "1" }
      { "security_driver" { "1" = "apparmor" } { "2" = "none" } }
      { "timeout" = "60" }
      { "cgroup_controllers" { "1" = "cpu" } { "2" = "memory" } }
      { "memory_backing_dir" = "/dev/shm" }
      { "save_image_format" = "zstd" }
      { "migration_port_min" = "50000" }
      { "migrate_tls_x509_cert_dir" = "/etc/pki/kumo" }
      { "keepalive_interval" = "-1" }
      { "keepalive_count" = "3" }

   test Libvirtd_kumo.lns get "security_driver = \"none\"\n" = { "security_driver" = "none" }
   test Libvirtd_kumo.lns put "timeout = 30\n" after set "/timeout" "60" = "timeout = 60\n"
   test Libvirtd_kumo.lns get "vnc_listen = \"0.0.0.0\"\n" = *
