/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "tests/guest/runtime.h"

#include <stdarg.h>

#include "tests/guest/interrupts.h"

enum {
    COM1 = 0x3f8,
    COM1_LCR = COM1 + 3,
    COM1_LSR = COM1 + 5,
    LSR_DATA = 1 << 0,
    LSR_THR_EMPTY = 1 << 5,
    SLEEP_PORT = 0x600,
    SLEEP_S5 = 5 << 2 | 1 << 5,
    PM_TIMER = 0x608,
    PM_TIMER_HZ = 3579545,
    TABLE_POOL = 16,
    DMA_POOL_BYTES = 8 << 20,
};

const StartInfo *start_info;
const char *cmdline = "";
static unsigned n_tests;
static uint64_t tsc_per_ms = 1000000;
static uint8_t dma_pool[DMA_POOL_BYTES] __attribute__((aligned(4096)));
static size_t dma_used;
static uint64_t table_pool[TABLE_POOL][512] __attribute__((aligned(4096)));
static unsigned tables_used;

extern uint64_t pml4[512];
extern const GuestTest guest_tests[];
void guest_main(void);

void *memset(void *to, int value, size_t len)
{
    void *at = to;

    __asm__ volatile("rep stosb" : "+D"(at), "+c"(len) : "a"(value) : "memory");
    return to;
}

void *memcpy(void *to, const void *from, size_t len)
{
    void *at = to;

    __asm__ volatile("rep movsb" : "+D"(at), "+S"(from), "+c"(len) : : "memory");
    return to;
}

int memcmp(const void *a, const void *b, size_t len)
{
    const uint8_t *x = a, *y = b;

    for (size_t i = 0; i < len; i++)
        if (x[i] != y[i])
            return x[i] - y[i];
    return 0;
}

size_t strlen(const char *text)
{
    size_t len = 0;

    while (text[len])
        len++;
    return len;
}

int strncmp(const char *a, const char *b, size_t len)
{
    for (size_t i = 0; i < len; i++)
        if (a[i] != b[i] || !a[i])
            return (uint8_t)a[i] - (uint8_t)b[i];
    return 0;
}

static void put_char(char c)
{
    while (!(inb(COM1_LSR) & LSR_THR_EMPTY))
        ;
    outb(COM1, (uint8_t)c);
}

static void put_number(uint64_t value, unsigned base, unsigned width, char pad)
{
    char digits[24];
    unsigned n = 0;

    do {
        digits[n++] = "0123456789abcdef"[value % base];
        value /= base;
    } while (value);
    while (n < width && n < sizeof(digits))
        digits[n++] = pad;
    while (n)
        put_char(digits[--n]);
}

/* %s %c %d %u %x with l, width and zero padding: all that the tests need. */
static void vprint(const char *format, va_list args)
{
    for (; *format; format++) {
        unsigned width = 0;
        char pad = ' ';
        bool is_long = false;

        if (*format != '%') {
            put_char(*format);
            continue;
        }
        if (*++format == '0') {
            pad = '0';
            format++;
        }
        for (; *format >= '0' && *format <= '9'; format++)
            width = width * 10 + (unsigned)(*format - '0');
        for (; *format == 'l' || *format == 'z'; format++)
            is_long = true;
        switch (*format) {
        case 's': {
            const char *text = va_arg(args, const char *);

            while (*text)
                put_char(*text++);
            break;
        }
        case 'c':
            put_char((char)va_arg(args, int));
            break;
        case 'd': {
            int64_t value = is_long ? va_arg(args, int64_t) : va_arg(args, int);

            if (value < 0)
                put_char('-');
            put_number(value < 0 ? -(uint64_t)value : (uint64_t)value, 10, width, pad);
            break;
        }
        case 'u':
            put_number(is_long ? va_arg(args, uint64_t) : va_arg(args, unsigned), 10, width, pad);
            break;
        case 'x':
            put_number(is_long ? va_arg(args, uint64_t) : va_arg(args, unsigned), 16, width, pad);
            break;
        default:
            put_char(*format);
            break;
        }
    }
}

void print(const char *format, ...)
{
    va_list args;

    va_start(args, format);
    vprint(format, args);
    va_end(args);
}

bool ok(bool condition, const char *format, ...)
{
    va_list args;

    print("%sok %u - ", condition ? "" : "not ", ++n_tests);
    va_start(args, format);
    vprint(format, args);
    va_end(args);
    print("\n");
    return condition;
}

void give_up(const char *format, ...)
{
    va_list args;

    interrupts_off();
    print("Bail out! ");
    va_start(args, format);
    vprint(format, args);
    va_end(args);
    print("\n");
    power_off();
}

void power_off(void)
{
    outb(SLEEP_PORT, SLEEP_S5);
    for (;;)
        __asm__ volatile("cli; hlt");
}

size_t option(const char *name, char *ret, size_t room)
{
    size_t name_len = strlen(name);

    for (const char *word = cmdline; *word;) {
        size_t len = 0;

        while (word[len] && word[len] != ' ')
            len++;
        if (len > name_len && !strncmp(word, name, name_len) && word[name_len] == '=') {
            size_t n = len - name_len - 1;

            if (n >= room)
                n = room - 1;
            memcpy(ret, word + name_len + 1, n);
            ret[n] = 0;
            return n;
        }
        word += len;
        while (*word == ' ')
            word++;
    }
    if (room)
        *ret = 0;
    return 0;
}

uint64_t option_number(const char *name, uint64_t otherwise)
{
    char text[24];
    uint64_t value = 0;

    if (!option(name, text, sizeof(text)))
        return otherwise;
    for (const char *c = text; *c >= '0' && *c <= '9'; c++)
        value = value * 10 + (uint64_t)(*c - '0');
    return value;
}

void *dma_alloc(size_t size, size_t align)
{
    size_t at = (dma_used + align - 1) & ~(align - 1);

    if (size > DMA_POOL_BYTES || at > DMA_POOL_BYTES - size)
        give_up("no DMA memory for %lu bytes", size);
    dma_used = at + size;
    return dma_pool + at;
}

static uint64_t *next_table(uint64_t *entry)
{
    if (!(*entry & 1)) {
        if (tables_used == TABLE_POOL)
            give_up("no more page tables");
        *entry = (uint64_t)table_pool[tables_used++] | 7;
    }
    return (uint64_t *)(*entry & 0x000ffffffffff000);
}

void map(uint64_t gpa, uint64_t size)
{
    const uint64_t page = 2 << 20;

    for (uint64_t at = gpa & ~(page - 1); at < gpa + size; at += page) {
        uint64_t *directory_pointers, *directory, *entry;

        if (at < 1ull << 32)
            continue;
        directory_pointers = next_table(&pml4[at >> 39 & 511]);
        directory = next_table(&directory_pointers[at >> 30 & 511]);
        entry = &directory[at >> 21 & 511];
        *entry = at | 0x87;
        __asm__ volatile("invlpg (%0)" : : "r"(at) : "memory");
    }
}

static uint64_t next_random(uint64_t *state)
{
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    return *state;
}

static uint64_t user_fill(uint64_t at, uint64_t len, uint64_t seed)
{
    uint64_t state = seed * 2 + 1;

    for (uint64_t i = 0; i + 8 <= len; i += 8)
        *(uint64_t *)(at + i) = next_random(&state);
    return 0;
}

static uint64_t user_compare(uint64_t at, uint64_t len, uint64_t seed)
{
    uint64_t state = seed * 2 + 1;

    for (uint64_t i = 0; i + 8 <= len; i += 8)
        if (*(const uint64_t *)(at + i) != next_random(&state))
            return i + 1;
    return 0;
}

void fill(void *at, size_t len, uint64_t seed)
{
    user_call(user_fill, (uint64_t)at, len, seed);
}

size_t compare(const void *at, size_t len, uint64_t seed)
{
    return user_call(user_compare, (uint64_t)at, len, seed);
}

/* The ACPI timer and, as exactly as a busy host allows, the time stamp of its reading. */
static uint32_t read_timer(uint64_t *ret_tsc)
{
    uint64_t best = UINT64_MAX;
    uint32_t ticks = 0;

    for (unsigned i = 0; i < 8; i++) {
        uint64_t before = rdtsc();
        uint32_t now = inl(PM_TIMER);
        uint64_t took = rdtsc() - before;

        if (took < best) {
            best = took;
            ticks = now;
            *ret_tsc = before + took / 2;
        }
    }
    return ticks;
}

static void calibrate(void)
{
    uint64_t began = 0, ended = 0;
    uint32_t from = read_timer(&began), ticks;

    do {
        ticks = read_timer(&ended) - from;
    } while (ticks < PM_TIMER_HZ / 200);
    tsc_per_ms = (ended - began) * (PM_TIMER_HZ / 1000) / ticks;
    if (!tsc_per_ms)
        give_up("the time stamp counter does not count");
}

uint64_t now_us(void)
{
    return rdtsc() * 1000 / tsc_per_ms;
}

uint64_t us_to_tsc(uint64_t us)
{
    return us * tsc_per_ms / 1000;
}

void delay_us(uint64_t us)
{
    uint64_t end = now_us() + us;

    while (now_us() < end)
        __asm__ volatile("pause");
}

int serial_read(uint64_t us)
{
    uint64_t end = now_us() + us;

    while (!(inb(COM1_LSR) & LSR_DATA))
        if (now_us() > end)
            return -1;
    return inb(COM1);
}

static bool same(const char *a, const char *b)
{
    return strlen(a) == strlen(b) && memcmp(a, b, strlen(a)) == 0;
}

void guest_main(void)
{
    char name[32];

    outb(COM1_LCR, 3);
    start_info = (const StartInfo *)entry_ebx;
    if (start_info->magic == 0x336ec578 && start_info->cmdline_paddr)
        cmdline = (const char *)start_info->cmdline_paddr;
    interrupts_init();
    calibrate();
    /* A host that talks with the guest connects first, and says so with a byte. */
    if (option_number("wait", 0)) {
        print("waiting\n");
        if (serial_read(20000000) < 0)
            give_up("the host said nothing");
    }
    /* A command line that is not meant for this guest names no test; then it ticks. */
    if (!option("test", name, sizeof(name)))
        memcpy(name, "ticks", sizeof("ticks"));
    for (const GuestTest *test = guest_tests; test->name; test++)
        if (same(test->name, name)) {
            test->run();
            print("1..%u\n", n_tests);
            power_off();
        }
    give_up("no test '%s'", name);
}
