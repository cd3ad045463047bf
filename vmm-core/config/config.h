/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * KumoVmConfig: the one description of a VM. The command line, the REST API, the domain XML,
 * snapshots and migration all meet in it. Names, defaults and ranges are those of Cloud
 * Hypervisor's options and JSON; each section's fields are described once, in a field table
 * (field.h), from which the option parser, the JSON reader and the JSON writer work.
 *
 * Strings are owned by the structure that holds them; NULL means not given.
 */
#pragma once

#include <glib.h>
#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>

#include "vmm-core/base/rate_limiter.h"

enum {
    KUMO_MAX_VCPUS = 8192, /* the hypervisor may allow fewer */
    /* A machine with more keeps the vCPUs that it starts with: names of processor devices have
     * three hexadecimal digits, and all have to fit into the room that there is for ACPI tables. */
    KUMO_MAX_PLUGGABLE_VCPUS = 2048,
    KUMO_PREFAULT_THREADS_MAX = 16,
    KUMO_ACPI_TABLES_BYTES = 0x50000, /* the room for them below the SMBIOS tables */
    KUMO_MAX_QUEUES = 512,            /* of one device, of any kind */
    KUMO_MAX_QUEUE_SIZE = 32768,
    KUMO_MAX_PCI_SEGMENTS = 96,
    KUMO_NUMA_ID_MAX = 255,
    KUMO_ID_MAX = 255, /* bytes of a device id */
    KUMO_DISK_SERIAL_MAX = 20,
    KUMO_CMDLINE_MAX = 0x10000,
    KUMO_CONSOLE_HOST_MAX = 253, /* bytes of a host name */
    KUMO_CONSOLE_RECONNECT_MAX_S = 86400,
};

typedef struct {
    uint32_t threads_per_core;
    uint32_t cores_per_die;
    uint32_t dies_per_package;
    uint32_t packages;
} KumoCpuTopology;

typedef struct {
    uint32_t vcpu;
    GArray *host_cpus; /* of uint32_t, never NULL */
} KumoCpuAffinity;

typedef struct {
    bool amx;
} KumoCpuFeatures;

/* Which threads may share a core with a vCPU of this VM: those that its scheduling cookie allows.
 */
typedef enum {
    KUMO_CORE_SCHEDULING_VM,   /* the other vCPUs */
    KUMO_CORE_SCHEDULING_VCPU, /* none */
    KUMO_CORE_SCHEDULING_OFF,  /* all */
} KumoCoreScheduling;

typedef struct {
    uint32_t boot_vcpus;
    uint32_t max_vcpus;
    bool has_topology;
    KumoCpuTopology topology;
    uint32_t max_phys_bits; /* upper bound of the guest's physical address width */
    bool nested;            /* show VMX or SVM to the guest */
    bool kvm_hyperv;        /* Hyper-V's paravirtual interface */
    GPtrArray *affinity;    /* of KumoCpuAffinity, never NULL */
    KumoCpuFeatures features;
    KumoCoreScheduling core_scheduling;
    GPtrArray *cpu_mask; /* of char *, never NULL: "-NAME" hides a feature, "+NAME" shows it;
                            names of cpu_features.h */
} KumoCpusConfig;

/* May the guest be Hyper-V, which sees its own interface and virtualizes in turn? Its loader wants
 * the PM1a blocks of ACPI (4.8.3.1, 4.8.3.2) though the hardware is reduced. */
bool kumo_cpus_can_run_hyperv(const KumoCpusConfig *cpus);

/* What every PCI device has: ids starting with "__" are the VMM's own. */
typedef struct {
    char *id;
    uint32_t pci_segment;
    int pci_device_id; /* slot 0..31, -1: the VMM chooses */
} KumoPciCommon;

/* What memory without zones is called, and its virtio-mem device. */
#define KUMO_MEMORY_ID "mem0"

/* The virtio-mem device of a zone, or of all memory. */
typedef struct {
    uint64_t plugged_bytes; /* how much of the zone's hotplug size the guest is asked to take */
    KumoPciCommon pci;      /* its id is the zone's, or "mem0" */
} KumoVirtioMemConfig;

/* One part of the guest's memory; in the order of the list they fill guest addresses from 0 on. */
typedef struct {
    char *id;
    uint64_t size_bytes;
    char *file; /* to map; a directory: a file without a name in it */
    bool shared;
    bool hugepages;
    uint64_t hugepage_size_bytes; /* 0: the host's default size */
    int host_numa_node;           /* -1: any */
    bool prefault;
    bool reserve;
    int mergeable;               /* -1: as KumoMemoryConfig.mergeable */
    uint64_t hotplug_size_bytes; /* what virtio-mem can add; 0: nothing */
    KumoVirtioMemConfig virtio_mem;
} KumoMemoryZoneConfig;

/* How memory is added to a running machine. */
typedef enum {
    KUMO_HOTPLUG_METHOD_ACPI,
    KUMO_HOTPLUG_METHOD_VIRTIO_MEM,
} KumoHotplugMethod;

typedef struct {
    uint64_t size_bytes; /* 0: the zones make up all memory */
    KumoHotplugMethod hotplug_method;
    uint64_t hotplug_size_bytes; /* guest addresses kept free for it; 0: none */
    bool mergeable;
    bool shared;
    bool hugepages;
    uint64_t hugepage_size_bytes; /* 0: the host's default size */
    bool prefault;
    bool reserve;
    bool thp;
    bool lock;                      /* no page of it is ever swapped out */
    uint32_t prefault_threads;      /* as many threads take it from the host; 0: the VMM chooses */
    KumoVirtioMemConfig virtio_mem; /* without zones: each of them has its own */
    GPtrArray *zones;               /* of KumoMemoryZoneConfig, never NULL */
} KumoMemoryConfig;

typedef struct {
    uint32_t destination; /* a node's guest_numa_id */
    uint32_t distance;    /* 10: local */
} KumoNumaDistance;

typedef struct {
    uint32_t guest_numa_id;
    GArray *cpus;            /* of uint32_t, never NULL: vCPUs */
    GPtrArray *distances;    /* of KumoNumaDistance, never NULL */
    GPtrArray *memory_zones; /* of char *, never NULL: ids of zones */
    GArray *pci_segments;    /* of uint32_t, never NULL */
} KumoNumaConfig;

typedef struct {
    char *kernel;
    char *firmware;
    char *cmdline;
    char *initramfs;
} KumoPayloadConfig;

/* The limits of one device, or of a group. */
typedef struct {
    KumoRateLimit limit;
    bool has_limit;
} KumoRateLimitConfig;

/* Limits that several disks share. */
typedef struct {
    char *id;
    KumoRateLimitConfig rate;
} KumoRateLimitGroupConfig;

typedef enum {
    KUMO_IMAGE_UNKNOWN, /* not said; the file's beginning decides whether it can be a raw image */
    KUMO_IMAGE_RAW,
} KumoImageType;

/* Which part of the image file is locked against other users of it. */
typedef enum {
    KUMO_LOCK_BYTE_RANGE, /* its present length */
    KUMO_LOCK_FULL,       /* whatever length it may get */
} KumoLockGranularity;

/* The host CPUs that the worker of a queue, or of a NIC's pair of queues, may run on. */
typedef struct {
    uint32_t queue_index;
    GArray *host_cpus; /* of uint32_t, never NULL */
} KumoQueueAffinity;

typedef struct {
    KumoPciCommon pci;
    char *path;
    KumoImageType image_type;
    bool readonly;
    bool direct;
    uint32_t num_queues;
    uint32_t queue_size;
    char *serial; /* NULL: derived from the file's device and inode */
    KumoRateLimitConfig rate;
    char *rate_limit_group;    /* id of a KumoRateLimitGroupConfig; excludes limits of its own */
    GPtrArray *queue_affinity; /* of KumoQueueAffinity, owned, never NULL */
    bool sparse;               /* FALSE: all blocks are allocated at the start and stay so */
    KumoLockGranularity lock_granularity;
    bool disable_io_uring, disable_aio; /* for tests: does without that engine */
    uint64_t write_threshold_bytes;     /* the first write beyond it is told, once; 0: none is */
} KumoDiskConfig;

typedef struct {
    KumoPciCommon pci;
    char *tap; /* NULL: the VMM creates one */
    char *ip;
    char *mask;
    char *mac;      /* NULL: random, locally administered */
    char *host_mac; /* NULL: the tap keeps its own */
    uint32_t mtu;   /* 0: not set */
    GArray *fds; /* of int, owned: tap descriptors from the command line or SCM_RIGHTS, -1: yet to
                    come; NULL: none */
    uint32_t num_queues; /* receive and transmit queues together: a multiple of two */
    uint32_t queue_size;
    bool offload_tso;
    bool offload_ufo;
    bool offload_csum;
    KumoRateLimitConfig rate;  /* receive and transmit have these limits each */
    bool link_up;              /* what the guest sees; while it is not nothing passes */
    GPtrArray *queue_affinity; /* of KumoQueueAffinity for pairs of queues, owned, never NULL */
} KumoNetConfig;

typedef struct {
    KumoPciCommon pci;
    char *src;
} KumoRngConfig;

typedef struct {
    KumoPciCommon pci;
    uint64_t size_bytes;      /* what the guest is asked to give back; whole pages of it count */
    bool deflate_on_oom;      /* the guest may take it back when it has none left */
    bool free_page_reporting; /* the guest tells which pages it does not use */
    bool statistics;          /* the guest can be asked for some, from when it boots on */
    uint32_t stats_period_s;  /* how often it is asked; 0: never. Else it can be, too */
} KumoBalloonConfig;

typedef enum {
    KUMO_CONSOLE_OFF,
    KUMO_CONSOLE_NULL,
    KUMO_CONSOLE_TTY,
    KUMO_CONSOLE_PTY,
    KUMO_CONSOLE_FILE,
    KUMO_CONSOLE_SOCKET,
    KUMO_CONSOLE_TCP,
} KumoConsoleMode;

typedef struct {
    KumoPciCommon pci; /* of virtio-console; unused by the serial port */
    KumoConsoleMode mode;
    char *file;   /* mode FILE: where to write; mode PTY: set by the VMM to the slave's path */
    char *socket; /* mode SOCKET */
    char *tcp;    /* mode TCP: "host:port" */
    bool connect; /* modes SOCKET and TCP: there, instead of listening */
    uint32_t reconnect_s; /* with connect: how often to try while there is no connection; 0: one has
                             to be had at the start, and once it is lost none comes again */
    bool append;          /* mode FILE: what is in the file stays */
    char *log_file;       /* gets all output too, in every mode that has any */
    bool log_append;
} KumoConsoleConfig;

typedef struct {
    KumoConsoleConfig console; /* its pci is unused, as are its sockets */
    uint32_t iobase;           /* the port */
} KumoDebugConsoleConfig;

typedef struct {
    uint32_t pci_segment;
    uint32_t mmio32_aperture_weight; /* its part of the room for BARs, beside the others' weights */
    uint32_t mmio64_aperture_weight;
} KumoPciSegmentConfig;

typedef struct {
    uint32_t num_pci_segments;
    char *system_manufacturer;
    char *system_product_name;
    char *system_version;
    char *system_serial_number;
    char *system_uuid;
    char *system_sku_number;
    char *system_family;
    GPtrArray *oem_strings; /* of char *, never NULL */
    char *chassis_asset_tag;
    int32_t rtc_offset_s; /* by which the real-time clock is ahead of UTC */
} KumoPlatformConfig;

/* A file, or a directory with all that is below, that a VM confined by Landlock may use besides. */
typedef struct {
    char *path;
    char *access; /* of the letters "r" and "w" */
} KumoLandlockRuleConfig;

typedef struct {
    KumoCpusConfig cpus;
    KumoMemoryConfig memory;
    KumoPayloadConfig payload;
    GPtrArray *disks;             /* of KumoDiskConfig, owned, never NULL */
    GPtrArray *nets;              /* of KumoNetConfig, owned, never NULL */
    GPtrArray *rate_limit_groups; /* of KumoRateLimitGroupConfig, owned, never NULL */
    KumoRngConfig rng;
    bool has_balloon;
    KumoBalloonConfig balloon;
    KumoConsoleConfig serial;
    KumoConsoleConfig console;
    KumoDebugConsoleConfig debug_console;
    KumoPlatformConfig platform;
    GPtrArray *numa; /* of KumoNumaConfig, owned, never NULL */
    GPtrArray
        *pci_segments;    /* of KumoPciSegmentConfig, owned, never NULL; only those that differ */
    bool landlock_enable; /* the process can open what the VM needs, and no other file */
    GPtrArray *landlock_rules; /* of KumoLandlockRuleConfig, owned, never NULL */
} KumoVmConfig;

/**
 * kumo_vm_config_new:
 *
 * Returns: (transfer full): a configuration with every default set and no payload.
 */
KumoVmConfig *kumo_vm_config_new(void);
void kumo_vm_config_free(KumoVmConfig *config);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(KumoVmConfig, kumo_vm_config_free)

/**
 * kumo_vm_config_copy:
 *
 * Returns: (transfer full): a deep copy; descriptors are duplicated.
 */
KumoVmConfig *kumo_vm_config_copy(const KumoVmConfig *config);

KumoDiskConfig *kumo_disk_config_new(void);
void kumo_disk_config_free(KumoDiskConfig *disk);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(KumoDiskConfig, kumo_disk_config_free)

KumoNetConfig *kumo_net_config_new(void);
void kumo_net_config_free(KumoNetConfig *net);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(KumoNetConfig, kumo_net_config_free)

/* Each: (transfer full): with defaults set, for the list of a KumoVmConfig to own. */
KumoMemoryZoneConfig *kumo_memory_zone_config_new(void);
KumoNumaConfig *kumo_numa_config_new(void);

/* Returns: (transfer none): the group with @id, or NULL. */
const KumoRateLimitGroupConfig *kumo_vm_config_find_rate_limit_group(const KumoVmConfig *config,
                                                                     const char *id);

/**
 * kumo_vm_config_from_json:
 * @root: a JSON object as vm.create takes it; what vm.info gave is accepted too
 *
 * An unknown field is refused by name; one that Cloud Hypervisor knows and kumo does not yet is
 * refused with "not supported yet" and its name. The result is not yet validated.
 *
 * Returns: (transfer full): the configuration, or NULL with @error (INVALID or NOT_SUPPORTED) set.
 */
KumoVmConfig *kumo_vm_config_from_json(const json_t *root, GError **error);

/**
 * kumo_vm_config_to_json:
 *
 * Descriptors are written as -1: they mean nothing to another process.
 *
 * Returns: (transfer full): the object that vm.info shows as "config".
 */
json_t *kumo_vm_config_to_json(const KumoVmConfig *config);

/* Returns: (transfer full): one device as vm.add-disk and vm.add-net take it. */
json_t *kumo_disk_config_to_json(const KumoDiskConfig *disk);
json_t *kumo_net_config_to_json(const KumoNetConfig *net);

/**
 * kumo_disk_config_from_json:
 *
 * Reads one device as vm.add-disk and vm.add-net take it, as strictly as
 * kumo_vm_config_from_json().
 *
 * Returns: (transfer full): the device, not yet validated, or NULL with @error set.
 */
KumoDiskConfig *kumo_disk_config_from_json(const json_t *root, GError **error);
KumoNetConfig *kumo_net_config_from_json(const json_t *root, GError **error);

/* Like kumo_vm_config_take_fds(), for the one device. */
bool kumo_net_config_take_fds(KumoNetConfig *net, int *fds, size_t n_fds, GError **error);

/**
 * kumo_vm_config_take_fds:
 * @fds: (inout): descriptors that came with a request; those taken are -1 afterwards
 *
 * In JSON, net[].fds only says how many descriptors belong to the device. This gives them out, in
 * the order of the devices. Their number has to be the number of entries that wait for one.
 *
 * Returns: TRUE, or FALSE with @error set and nothing taken.
 */
bool kumo_vm_config_take_fds(KumoVmConfig *config, int *fds, size_t n_fds, GError **error);

/* Returns: (transfer none) (nullable): what @config says of the PCI device @id, the automatic ids
 * included. */
KumoPciCommon *kumo_vm_config_find_pci(KumoVmConfig *config, const char *id);

/**
 * kumo_vm_config_validate:
 *
 * Checks ranges and combinations over all sections, ids for uniqueness and form. Gives every device
 * without an id its automatic one ("_disk0", "_net0", "__rng", ...). Files are not touched.
 *
 * Returns: TRUE, or FALSE with @error naming field, value and what is allowed.
 */
bool kumo_vm_config_validate(KumoVmConfig *config, GError **error);

/**
 * kumo_vm_config_check_same_guest:
 * @theirs: of a VM that exists, validated
 * @own: the one that is to be built in its place, validated; what it leaves to be chosen (slots,
 * MAC addresses) is taken over from @theirs
 *
 * Would a guest find its machine again? Whether a balloon gives statistics is as in @theirs.
 * Whatever the field tables do not mark as the host's has to
 * be the same; devices are told apart by their ids.
 *
 * Returns: TRUE, or FALSE with @error (INVALID) naming the field and both values.
 */
bool kumo_vm_config_check_same_guest(const KumoVmConfig *theirs, KumoVmConfig *own, GError **error);

/* The part of it that is about memory and the balloon. */
bool kumo_vm_config_check_memory(const KumoVmConfig *config, GError **error);

/* Returns: the guest's memory at boot, in bytes; 0 if it is more than can be told. */
uint64_t kumo_memory_config_total(const KumoMemoryConfig *memory);

/* Returns: what the guest is asked to have, bytes: at boot, and by virtio-mem. */
uint64_t kumo_memory_config_wanted(const KumoMemoryConfig *memory);

/* Returns: (transfer none) (nullable) */
KumoMemoryZoneConfig *kumo_memory_config_find_zone(const KumoMemoryConfig *memory, const char *id);

/* Guest addresses that memory may be added at. */
typedef struct {
    int zone; /* index into the zones, -1: there are none */
    uint64_t gpa;
    uint64_t size_bytes;
} KumoHotplugRange;

/**
 * kumo_memory_config_hotplug_ranges:
 * @from_gpa: the end of RAM
 *
 * Returns: (transfer full): array of KumoHotplugRange, ascending from @from_gpa on: one for each
 * zone that may grow. NULL if they do not fit below 2^63.
 */
GArray *kumo_memory_config_hotplug_ranges(const KumoMemoryConfig *memory, uint64_t from_gpa);

bool kumo_memory_zone_is_mergeable(const KumoMemoryConfig *memory,
                                   const KumoMemoryZoneConfig *zone);

/* What belongs to no node. */
#define KUMO_NUMA_NONE UINT32_MAX

/* Returns: the guest_numa_id of the node that has it, or KUMO_NUMA_NONE. */
uint32_t kumo_numa_node_of_cpu(const KumoVmConfig *config, uint32_t vcpu);
uint32_t kumo_numa_node_of_zone(const KumoVmConfig *config, const char *zone);
uint32_t kumo_numa_node_of_segment(const KumoVmConfig *config, uint32_t segment);

/* Returns: the distance between two nodes as given for one direction or the other; 10 to itself, 20
 * if none is given. */
uint8_t kumo_numa_distance(const KumoVmConfig *config, uint32_t from, uint32_t to);
/* --- restoring a snapshot --- */

typedef enum {
    KUMO_RESTORE_COPY,      /* all memory is there before the guest goes on */
    KUMO_RESTORE_ON_DEMAND, /* a page comes when it is touched */
} KumoRestoreMode;

/* New descriptors for a network device that had some. */
typedef struct {
    char *id;
    uint32_t num_fds;
    GArray *fds; /* of int, owned; NULL: yet to come with the request */
} KumoRestoreNet;

/* Another NUMA node of the host for a memory zone. */
typedef struct {
    char *id;
    int host_numa_node;
} KumoRestoreZone;

typedef struct {
    char *source_url;
    bool prefault;
    KumoRestoreMode mode;
    bool resume;           /* otherwise the VM is paused */
    GPtrArray *net_texts;  /* of char *: "id@[fd,fd]" as the command line has it */
    GPtrArray *nets;       /* of KumoRestoreNet, owned, never NULL */
    GPtrArray *zone_texts; /* of char *: "id@node" as the command line has it */
    GPtrArray *zones;      /* of KumoRestoreZone, owned, never NULL */
} KumoRestoreConfig;

/* Returns: (transfer full): checked; NULL with @error set. */
KumoRestoreConfig *kumo_restore_config_from_json(const json_t *json, GError **error);
json_t *kumo_restore_config_to_json(const KumoRestoreConfig *restore);
void kumo_restore_config_free(KumoRestoreConfig *restore);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(KumoRestoreConfig, kumo_restore_config_free)

/* As kumo_vm_config_take_fds(), for what nets of @restore say. */
bool kumo_restore_config_take_fds(KumoRestoreConfig *restore, int *fds, size_t n_fds,
                                  GError **error);

/* Gives the descriptors of @restore to the network devices of a snapshot's @config, where each that
 * needs some has to get them, and its nodes to the memory zones. */
bool kumo_restore_config_apply(KumoRestoreConfig *restore, KumoVmConfig *config, GError **error);

/* --- migration --- */

/* When the guest writes faster than its memory is sent, and the time is up. */
typedef enum {
    KUMO_MIGRATION_CANCEL, /* it stays where it is */
    KUMO_MIGRATION_IGNORE, /* it is stopped for as long as it takes */
} KumoMigrationStrategy;

typedef enum { KUMO_COMPRESSION_NONE, KUMO_COMPRESSION_ZSTD } KumoCompression;

typedef struct {
    char *destination_url;
    bool local;              /* memory is not copied, the destination gets its descriptors */
    uint32_t downtime_ms;    /* for which the guest may be stopped at the end */
    uint32_t timeout_s;      /* for which it may run on meanwhile */
    uint32_t peer_timeout_s; /* for which the destination may say nothing; 0: for ever */
    KumoMigrationStrategy timeout_strategy;
    uint64_t max_bandwidth; /* bytes per second while the guest runs; 0: as fast as it goes */
    uint64_t max_postcopy_bandwidth; /* the same for what follows unasked */
    uint32_t connections;
    KumoCompression compression; /* of pages */
    uint32_t compression_level;  /* 0: the library's default */
    int memory_mode;
    bool auto_converge; /* a guest that writes too much gets less time, percent of it: */
    uint32_t auto_converge_initial, auto_converge_increment;
    bool checksum;     /* of pages that go in plain text */
    bool keep_process; /* it stays without VM, and can be asked what became of it */
    bool one_way;      /* nobody answers; the VM, which has to be paused, stays */
    char *tls_dir;     /* of certificates; NULL: no TLS */
    char *tls_name;    /* that the destination's has; NULL: that of destination_url */
    bool recover;      /* memory that follows does so over another connection */
    GArray *stream_fd; /* of int, owned: the one descriptor that "fd:" stands for; NULL: none yet */
} KumoSendMigrationConfig;

/* When memory goes to the destination. */
typedef enum {
    KUMO_MEMORY_PRECOPY = 0, /* before the VM does */
    KUMO_MEMORY_POSTCOPY,    /* after it */
    KUMO_MEMORY_HYBRID,      /* before it, until the rest is told to follow */
} KumoMemoryMode;

typedef struct {
    char *receiver_url;
    bool wait;   /* the request is answered when the VM is there, not when it may come */
    bool paused; /* the VM does not run on, even if it did at the source */
    int memory_mode;
    bool has_config; /* the VM is built from config, not from what the source says */
    KumoVmConfig config;
    uint32_t peer_timeout_s; /* of the source, while memory follows */
    char *tls_dir;           /* as in KumoSendMigrationConfig */
    bool recover;            /* the same */
    char *config_file;       /* where the command line says config is */
    GArray *stream_fd;       /* as in KumoSendMigrationConfig */
} KumoReceiveMigrationConfig;

/* What of a migration that is under way can be changed. */
typedef struct {
    uint32_t downtime_ms;
    uint64_t max_bandwidth, max_postcopy_bandwidth;
    bool stop_guest; /* at once: what is left goes while it stands still */
    bool has_downtime, has_bandwidth, has_postcopy_bandwidth; /* else it stays as it is */
} KumoUpdateMigrationConfig;

/* Fills @ret, checked. Returns: TRUE, or FALSE with @error set. */
bool kumo_update_migration_config_from_json(const json_t *json, KumoUpdateMigrationConfig *ret,
                                            GError **error);

/* Returns: (transfer full): checked; NULL with @error set. */
KumoSendMigrationConfig *kumo_send_migration_config_from_json(const json_t *json, GError **error);
json_t *kumo_send_migration_config_to_json(const KumoSendMigrationConfig *send);
void kumo_send_migration_config_free(KumoSendMigrationConfig *send);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(KumoSendMigrationConfig, kumo_send_migration_config_free)

KumoReceiveMigrationConfig *kumo_receive_migration_config_from_json(const json_t *json,
                                                                    GError **error);
json_t *kumo_receive_migration_config_to_json(const KumoReceiveMigrationConfig *receive);
void kumo_receive_migration_config_free(KumoReceiveMigrationConfig *receive);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(KumoReceiveMigrationConfig, kumo_receive_migration_config_free)

/* As kumo_vm_config_take_fds(): the descriptor of "fd:" comes first, then those of the
 * configuration's network devices. */
bool kumo_send_migration_config_take_fds(KumoSendMigrationConfig *send, int *fds, size_t n_fds,
                                         GError **error);
bool kumo_receive_migration_config_take_fds(KumoReceiveMigrationConfig *receive, int *fds,
                                            size_t n_fds, GError **error);

/* Returns: the spelling of JSON: "Off", "Null", "Tty", "Pty", "File", "Socket". */
const char *kumo_console_mode_to_string(KumoConsoleMode mode);
