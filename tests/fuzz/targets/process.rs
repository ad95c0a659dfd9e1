//! Gives libFuzzer's inputs to the target `process`.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| vxdp_lab::fuzz::run("process", input));
