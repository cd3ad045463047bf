# SPDX-License-Identifier: LGPL-2.1-or-later
"""Other stock clients: Perl's Sys::Virt, the exporter for Prometheus, virt-top."""

import re
import shutil
import socket
import urllib.request

from harness import test
from harness.virt import Connection, configure, disk, domain, fake

URI = "kumo:///system"

PERL = r"""
use strict; use warnings;
use Sys::Virt; use Sys::Virt::Domain; use Sys::Virt::Event;
Sys::Virt::Event::register_default();
my $c = Sys::Virt->new(uri => $ARGV[0]);
my @events;
$c->domain_event_register_any(undef, Sys::Virt::Domain::EVENT_ID_LIFECYCLE, sub { push @events, $_[2] });
local $/; open(my $in, "<", $ARGV[1]) or die; my $dom = $c->define_domain(<$in>);
$dom->create;
my $info = $dom->get_info;
print "type ", $c->get_type, "\n", "state $info->{state} cpus $info->{nrVirtCpu} memory $info->{memory}\n";
print "disk ", $dom->block_stats("vda")->{rd_bytes}, "\n";
my @stats = $c->get_all_domain_stats(Sys::Virt::Domain::STATS_STATE | Sys::Virt::Domain::STATS_VCPU);
print "stats ", scalar(@stats), " ", $stats[0]->{data}->{"vcpu.current"}, "\n";
$dom->set_vcpus(1, Sys::Virt::Domain::VCPU_LIVE);
print "vcpus ", $dom->get_vcpus(Sys::Virt::Domain::VCPU_LIVE), "\n";
eval { $dom->screenshot($c->new_stream, 0) };
print "error ", ref($@), " ", $@->code, "\n";
eval { $c->get_domain_by_name("nobody") };
print "missing ", $@->code, "\n";
$dom->suspend; $dom->resume; $dom->destroy; $dom->undefine;
Sys::Virt::Event::run_default() while @events < 6;
print "events @events\n";
"""


@test(timeout=60, where="any")
def perl(t):
    """Sys::Virt drives a domain through its life, and gets errors with their codes."""
    configure(t, binary=fake(t))
    t.virtkumod()
    for name, text in (("vm.xml", domain(t, devices=disk(t)[1], vcpus=2)), ("client.pl", PERL)):
        with open(t.path(name), "w", encoding="utf-8") as stream:
            stream.write(text)
    t.equal(t.run("perl", t.path("client.pl"), URI, t.path("vm.xml")).split("\n"), [
        "type KUMO", "state 1 cpus 2 memory 65536", "disk 512", "stats 1 2", "vcpus 1", "error Sys::Virt::Error 3", "missing 42",
        "events 0 2 3 4 5 1", ""], "what the client said")


@test(timeout=60, where="any")
def prometheus(t):
    """prometheus-libvirt-exporter finds a running domain's figures."""
    configure(t, binary=fake(t))
    t.network()
    t.virtkumod()
    c = Connection(t, events=False)
    dom = c.conn.defineXML(domain(t, devices=disk(t)[1] + "<interface type='ethernet'><target dev='tap7'/></interface>", vcpus=2))
    dom.create()
    t.start("prometheus-libvirt-exporter", "--libvirt.uri", URI, "--web.listen-address", "127.0.0.1:9177", name="exporter")

    def listens():
        with socket.socket() as client:
            return client.connect_ex(("127.0.0.1", 9177)) == 0

    t.wait_for(listens, "the exporter")
    with urllib.request.urlopen("http://127.0.0.1:9177/metrics", timeout=20) as answer:
        text = answer.read().decode()
    for pattern in (r"^libvirt_up 1$", r'^libvirt_domain_info_virtual_cpus\{domain="vm",.*\} 2$', r'^libvirt_domain_info_memory_usage_bytes\{domain="vm",.*\} 6.7108864e\+07$',
                    r'^libvirt_domain_block_stats_read_bytes_total\{.*target_device="vda".*\} 512$',
                    r'^libvirt_domain_interface_stats_receive_bytes_total\{.*target_device="tap7".*\} \d'):
        t.check(re.search(pattern, text, re.MULTILINE), f"/{pattern}/ is not in\n{text[:6000]}")


# Debian 12 has no package of it, Debian 13 has.
if shutil.which("virt-top"):

    @test(timeout=60, where="any")
    def virt_top(t):
        """virt-top's table for scripts has the running domain with its figures."""
        configure(t, binary=fake(t))
        t.virtkumod()
        c = Connection(t, events=False)
        c.conn.defineXML(domain(t, devices=disk(t)[1], vcpus=2)).create()
        t.run("virt-top", "-c", URI, "--script", "-n", "2", "-d", "1", "--csv", t.path("top.csv"), "--block-in-bytes")
        with open(t.path("top.csv"), encoding="utf-8") as stream:
            lines = [line.rstrip("\n").split(",") for line in stream]
        t.equal(len(lines), 3, "lines")
        values = dict(zip(lines[0], lines[2]))
        for column, value in {"Hostname": values["Hostname"], "Count": "1", "Running": "1", "Domain name": "vm", "Block RDBY": "0", "Total memory (KB)": "65536"}.items():
            t.equal(values.get(column), value, f"column {column} of {values}")
