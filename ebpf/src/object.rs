//! The compiled programs, embedded.

/// An ELF parser reads the object through aligned references; a plain `include_bytes!` may stand anywhere.
#[repr(C, align(32))]
struct Aligned<T: ?Sized>(T);

static ALIGNED: &Aligned<[u8]> = &Aligned(*include_bytes!("../vxdp.bpf.o"));

/// The ELF object with both XDP programs and their maps, little-endian BPF.
pub static OBJECT: &[u8] = &ALIGNED.0;

static BENCH_ALIGNED: &Aligned<[u8]> = &Aligned(*include_bytes!("../bench.bpf.o"));

/// The ELF object with the benchmarks' generator and sink.
pub static BENCH_OBJECT: &[u8] = &BENCH_ALIGNED.0;
