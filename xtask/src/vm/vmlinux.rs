//! Taking the uncompressed kernel out of the image that a distribution ships.
//!
//! Under emulation the kernel would spend longer on unpacking itself than on everything else of its start;
//! and qemu starts an uncompressed one directly, by its PVH entry (`Documentation/x86/boot.rst`, "The 32-bit
//! boot protocol", tells the header's fields).

use crate::process;
use anyhow::{Context, Result, bail, ensure};
use std::io::Write;
use std::ops::Range;
use std::path::Path;
use std::process::Stdio;

/// How a payload begins, by the program that unpacks it.
const FORMATS: [(&[u8], &str); 3] =
    [(b"\xfd7zXZ\0", "xz"), (b"\x28\xb5\x2f\xfd", "zstd"), (b"\x1f\x8b", "gzip")];

/// Bytes behind the compressed stream that give its unpacked size (`arch/x86/boot/compressed/Makefile`).
const TRAILER: usize = 4;

/// Unpacks the kernel in `image` (`vmlinuz-…`) to `to`.
pub(super) fn extract(image: &Path, to: &Path) -> Result<()> {
    let bytes = std::fs::read(image).with_context(|| format!("cannot read {}", image.display()))?;
    let payload = payload(&bytes).with_context(|| image.display().to_string())?;
    let packed = &bytes[payload];
    let format = FORMATS.iter().find(|(magic, _)| packed.starts_with(magic));
    let (_, program) = format.context("the kernel is packed in a format that this command does not know")?;
    let (packed, size) = packed.split_at(packed.len() - TRAILER);
    let kernel = unpack(program, packed)?;
    let size = size.try_into().map(u32::from_le_bytes)?;
    ensure!(u32::try_from(kernel.len()) == Ok(size), "{}: unpacked to a wrong size", image.display());
    ensure!(kernel.starts_with(b"\x7fELF"), "{}: what was packed is no kernel", image.display());
    std::fs::write(to, kernel).with_context(|| format!("cannot write {}", to.display()))
}

/// Where the compressed kernel lies in a bzImage.
fn payload(image: &[u8]) -> Result<Range<usize>> {
    let number = |at: usize| -> Option<usize> {
        let bytes = image.get(at..at + 4)?.try_into().ok()?;
        usize::try_from(u32::from_le_bytes(bytes)).ok()
    };
    if image.get(0x202..0x206) != Some(b"HdrS") {
        bail!("no kernel image: the signature of its header is missing");
    }
    // Zero means four, for the sake of very old boot loaders.
    let setup_sectors = match usize::from(image[0x1f1]) {
        0 => 4,
        sectors => sectors,
    };
    let range = number(0x248).zip(number(0x24c)).map(|(offset, length)| {
        let start = (setup_sectors + 1) * 512 + offset;
        start..start + length
    });
    let range = range.filter(|r| r.len() > TRAILER && r.end <= image.len());
    range.context("the kernel image ends before its payload does")
}

/// What `program` makes of `packed`.
pub(super) fn unpack(program: &str, packed: &[u8]) -> Result<Vec<u8>> {
    let mut command = process::command(program);
    let mut child = command
        .arg("-dc")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .with_context(|| format!("cannot start {program}"))?;
    let mut input = child.stdin.take().context("the child's input is not piped")?;
    let out = std::thread::scope(|scope| {
        // A program that stops reading says why by its exit code.
        scope.spawn(move || input.write_all(packed));
        child.wait_with_output()
    });
    let out = out.with_context(|| format!("cannot read from {program}"))?;
    ensure!(out.status.success(), "{program} could not unpack it ({})", out.status);
    Ok(out.stdout)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An image with one setup sector and `payload`, `offset` bytes behind it.
    fn image(offset: u32, payload: &[u8], claimed: u32) -> Vec<u8> {
        let mut image = vec![0; 1024 + usize::try_from(offset).unwrap()];
        image[0x1f1] = 1;
        image[0x202..0x206].copy_from_slice(b"HdrS");
        image[0x248..0x24c].copy_from_slice(&offset.to_le_bytes());
        image[0x24c..0x250].copy_from_slice(&claimed.to_le_bytes());
        image.extend(payload);
        image
    }

    #[test]
    fn the_payload_is_where_the_header_says() {
        let image = image(7, b"payload", 7);
        assert_eq!(&image[payload(&image).unwrap()], b"payload");
    }

    #[test]
    fn what_is_no_kernel_image_is_told() {
        assert!(payload(b"").unwrap_err().to_string().contains("signature"));
        assert!(payload(&[0; 4096]).unwrap_err().to_string().contains("signature"));
        for claimed in [0, 4, 8, u32::MAX] {
            assert!(payload(&image(7, b"payload", claimed)).is_err(), "{claimed}");
        }
        assert!(payload(&image(7, b"payload", 7)[..0x210]).is_err());
    }

    #[test]
    fn unpacking_gives_back_what_was_packed() {
        let packed = b"\x1f\x8b\x08\0\0\0\0\0\0\x03\xcb\x48\xcd\xc9\xc9\xe7\x02\0\x20\x30\x3a\x36\x06\0\0\0";
        assert_eq!(unpack("gzip", packed).unwrap(), b"hello\n");
        assert!(unpack("gzip", b"hello").is_err());
    }
}
