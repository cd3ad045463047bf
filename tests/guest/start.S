/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Entry of the test guest by the PVH ABI (32-bit protected mode, EBX = hvm_start_info), the way
 * into long mode with all of the first 4 GiB mapped one to one, interrupt entries, the way to user mode
 * and back, and the trampoline of the other processors.
 *
 * Everything in here and all C code runs on software KVM too, which emulates privileged code and does
 * not know every instruction.
 */
#define CODE64 0x08
#define DATA   0x10
#define UDATA  0x1b
#define UCODE  0x23
#define TSS    0x28
#define CODE32 0x38

#define TRAMPOLINE 0x10000

    .section .note.pvh, "a", @note
    .align 4
    .long 4, 4, 18
    .asciz "Xen"
    .long pvh_start

    .section .text.start, "ax"
    .code32
    .globl pvh_start
pvh_start:
    cli
    movl %ebx, entry_ebx
    movl %cr0, %eax
    movl %eax, entry_cr0
    movl %cr4, %eax
    movl %eax, entry_cr4
    movl $boot_stack_top, %esp
    pushfl
    popl entry_eflags
    call enter_long_mode_32
    ljmp $CODE64, $start64

/* Paging on, long mode active; the caller's ljmp completes it. Clobbers EAX, ECX, EDX. */
enter_long_mode_32:
    movl %cr4, %eax
    orl $0x20, %eax             /* PAE */
    movl %eax, %cr4
    movl $pml4, %eax
    movl %eax, %cr3
    movl $0xc0000080, %ecx
    rdmsr
    orl $0x100, %eax            /* EFER.LME */
    wrmsr
    movl %cr0, %eax
    orl $0x80000001, %eax
    movl %eax, %cr0
    lgdt gdt_pointer
    ret

    .code64
start64:
    movw $DATA, %ax
    movw %ax, %ds
    movw %ax, %es
    movw %ax, %ss
    xorl %eax, %eax
    movw %ax, %fs
    movw %ax, %gs
    movq $boot_stack_top, %rsp
    xorl %ebp, %ebp
    call guest_main
1:  hlt
    jmp 1b

/* --- other processors: real mode at TRAMPOLINE --- */
    .globl ap_trampoline, ap_trampoline_end
    .code16
ap_trampoline:
    cli
    xorw %ax, %ax
    movw $(TRAMPOLINE >> 4), %ax
    movw %ax, %ds
    lgdtl ap_gdt_pointer - ap_trampoline
    movl %cr0, %eax
    orl $1, %eax
    movl %eax, %cr0
    ljmpl $CODE32, $ap_start32
    .align 8
ap_gdt_pointer:
    .word gdt_end - gdt - 1
    .long gdt
ap_trampoline_end:

    .code32
ap_start32:
    movw $DATA, %ax
    movw %ax, %ds
    movw %ax, %es
    movw %ax, %ss
    movl $1, %ebx
    lock xaddl %ebx, ap_next     /* a ticket: this processor's number and stack */
    movl %ebx, %eax
    shll $12, %eax
    leal ap_stacks + 4096(%eax), %esp
    call enter_long_mode_32
    ljmp $CODE64, $ap_start64
    .code64
ap_start64:
    movw $DATA, %ax
    movw %ax, %ss
    movl %ebx, %edi
    movslq %ebx, %rax
    shlq $12, %rax
    leaq ap_stacks + 4096(%rax), %rsp
    xorl %ebp, %ebp
    call ap_main
1:  hlt
    jmp 1b

/* --- interrupts --- */
    .globl isr_stubs
    .balign 16
isr_stubs:
    .set vector, 0
    .rept 64
    .balign 16
    .if (vector != 8) && (vector < 10 || vector > 14) && (vector != 17) && (vector != 21)
    pushq $0
    .endif
    pushq $vector
    jmp isr_common
    .set vector, vector + 1
    .endr

isr_common:
    pushq %rax
    pushq %rbx
    pushq %rcx
    pushq %rdx
    pushq %rsi
    pushq %rdi
    pushq %rbp
    pushq %r8
    pushq %r9
    pushq %r10
    pushq %r11
    pushq %r12
    pushq %r13
    pushq %r14
    pushq %r15
    movq %rsp, %rdi
    cld
    movq %rsp, %rbx
    andq $-16, %rsp
    call isr_dispatch
    movq %rbx, %rsp
    popq %r15
    popq %r14
    popq %r13
    popq %r12
    popq %r11
    popq %r10
    popq %r9
    popq %r8
    popq %rbp
    popq %rdi
    popq %rsi
    popq %rdx
    popq %rcx
    popq %rbx
    popq %rax
    addq $16, %rsp
    iretq

/* uint64_t user_call(void *function, a, b, c): runs function(a, b, c) in user mode. */
    .globl user_call
user_call:
    pushfq
    pushq %rbx
    pushq %rbp
    pushq %r12
    pushq %r13
    pushq %r14
    pushq %r15
    movq %rsp, user_return_rsp
    movq %rdi, %rax
    movq %rsi, %rdi
    movq %rdx, %rsi
    movq %rcx, %rdx
    pushq $UDATA
    pushq $user_stack_top
    pushq 64(%rsp)               /* the caller's flags: interrupts on or off */
    pushq $UCODE
    pushq $user_entry
    iretq
user_entry:
    call *%rax
    ud2                         /* the way back: isr_dispatch calls user_return */

/* void user_return(uint64_t value): ends the user_call that is under way. */
    .globl user_return
user_return:
    movq %rdi, %rax
    movq user_return_rsp, %rsp
    popq %r15
    popq %r14
    popq %r13
    popq %r12
    popq %rbp
    popq %rbx
    popfq
    ret

/* --- tables --- */
    .data
    .balign 16
gdt:
    .quad 0
    .quad 0x00af9b000000ffff    /* 0x08 64-bit code */
    .quad 0x00cf93000000ffff    /* 0x10 data */
    .quad 0x00cff3000000ffff    /* 0x18 user data */
    .quad 0x00affb000000ffff    /* 0x20 user 64-bit code */
    .globl gdt_tss
gdt_tss:
    .quad 0, 0                  /* 0x28 TSS, filled by C code */
    .quad 0x00cf9b000000ffff    /* 0x38 32-bit code */
gdt_end:
    .balign 8
    .word 0, 0, 0
    .globl gdt_pointer
gdt_pointer:
    .word gdt_end - gdt - 1
    .quad gdt

    .globl entry_ebx, entry_cr0, entry_cr4, entry_eflags, ap_next
entry_ebx:
    .quad 0
entry_cr0:
    .quad 0
entry_cr4:
    .quad 0
entry_eflags:
    .quad 0
user_return_rsp:
    .quad 0
ap_next:
    .quad 0

/* The first 4 GiB in pages of 2 MiB: present, writable, for user mode too. */
    .balign 4096
    .globl pml4, pdpt
pml4:
    .quad pdpt + 7
    .fill 511, 8, 0
pdpt:
    .quad pd + 7, pd + 0x1007, pd + 0x2007, pd + 0x3007
    .fill 508, 8, 0
pd:
    .set page, 0
    .rept 2048
    .quad page + 0x87
    .set page, page + 0x200000
    .endr

    .bss
    .balign 4096
    .skip 32768
boot_stack_top:
    .skip 16384
user_stack_top:
    .skip 16384
    .globl isr_stack_top
isr_stack_top:
    .globl ap_stacks
ap_stacks:
    .skip 4096 * 64
    .section .note.GNU-stack, "", @progbits
