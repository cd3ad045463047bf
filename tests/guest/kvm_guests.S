/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Guests of test-kvm.c: 32-bit flat code, loaded at 0x10000. Port 0x80 collects bytes, 0x90 counts up, 0x82 is
 * told of the end; registers of a device are at 0xd0000000; 0x5000 to 0x7fff is theirs.
 */
	.section .rodata
	.code32

	.macro guest name
	.globl guest_\name
	.globl guest_\name\()_end
guest_\name:
	.endm

	.macro guest_end name
guest_\name\()_end:
	.endm

	.macro finish
	mov $0x82, %edx
	mov $1, %al
	out %al, %dx
9:	jmp 9b
	.endm

	/* Every width of port and memory accesses, and the string instructions. */
	guest io
	mov $0x7000, %esi
	mov $5, %ecx
	mov $0x80, %edx
	rep outsb
	mov $0x5000, %edi
	mov $8, %ecx
	mov $0x90, %edx
	rep insb
	in %dx, %ax
	mov %ax, 0x5008
	in %dx, %eax
	mov %eax, 0x500c
	mov $0xd0000000, %ebx
	movb $0x11, (%ebx)
	movw $0x2222, 2(%ebx)
	movl $0x44444444, 4(%ebx)
	mov 4(%ebx), %eax
	mov %eax, 0x5010
	movzbl 1(%ebx), %eax
	mov %eax, 0x5014
	mov $0xd0001000, %ebx
	mov (%ebx), %eax		/* nobody there */
	mov %eax, 0x5018
	finish
	guest_end io

	/* Reads the counter for ever. */
	guest count
	mov $0x90, %edx
1:	in %dx, %eax
	incl 0x6000
	jmp 1b
	guest_end count

	guest spin
	mov $0x82, %edx
	mov $1, %al
	out %al, %dx
1:	jmp 1b
	guest_end spin

	/* No interrupt descriptors: the exception has nowhere to go. */
	guest triple_fault
	lidt 0x7000
	ud2
	guest_end triple_fault

	guest run_mmio
	mov $0xd0000000, %eax
	jmp *%eax
	guest_end run_mmio

	/* Writes to a doorbell. */
	guest doorbell
	mov $0xd0001000, %ebx
	movl $7, (%ebx)
	movl $8, (%ebx)
	finish
	guest_end doorbell

	/* Local APIC on; IOAPIC pin 5 level-triggered to vector 0x41; then waits. */
	guest irq
	mov $0xfee000f0, %eax
	movl $0x1ff, (%eax)
	mov $0xfec00000, %ebx
	movl $0x1b, (%ebx)
	movl $0, 0x10(%ebx)
	movl $0x1a, (%ebx)
	movl $0x8041, 0x10(%ebx)
	mov $0x82, %edx
	mov $1, %al
	out %al, %dx
	sti
1:	hlt
	jmp 1b

	.globl guest_irq_msi
guest_irq_msi:
	push %eax
	push %edx
	mov $0x40, %al
	jmp 2f
	.globl guest_irq_level
guest_irq_level:
	push %eax
	push %edx
	mov $0x41, %al
2:	mov $0x80, %edx
	out %al, %dx
	mov $0xfee000b0, %edx
	movl $0, (%edx)
	pop %edx
	/* Back by popf and ret: KVM's instruction emulator, which runs this where the processor does not, has no
	   iret for protected mode. Return address and flags change places for it. */
	mov 4(%esp), %eax
	xchg %eax, 12(%esp)
	mov %eax, 8(%esp)
	pop %eax
	add $4, %esp
	popf
	ret
	guest_end irq

	.section .note.GNU-stack, "", @progbits
