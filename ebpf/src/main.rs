//! The XDP programs: they decide whether a frame is completely known, and pass every other one untouched.
#![no_std]
#![no_main]
#![expect(unsafe_code, reason = "packet and map memory are raw pointers that the kernel's verifier checks")]

mod programs;

/// The programs use helpers that the kernel offers to GPL-compatible licences only.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";

/// Never reached: the verifier refuses a program that could panic.
#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}
