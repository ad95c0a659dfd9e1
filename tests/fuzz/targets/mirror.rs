//! Gives libFuzzer's inputs to the target `mirror`.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| vxdp_lab::fuzz::run("mirror", input));
