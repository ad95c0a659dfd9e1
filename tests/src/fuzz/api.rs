//! Lines from clients of the API, and from the daemon.

use vxdp_control::api::{VERSION, read_answer, read_request, to_line};

/// A line is a request or a refusal; a request is the same after another trip over the wire.
pub(super) fn check(line: &[u8]) {
    match read_request(line) {
        Ok(request) => {
            let again = to_line(&request).expect("a request can be written");
            assert_eq!(again.iter().filter(|byte| **byte == b'\n').count(), 1, "one line");
            assert_eq!(read_request(&again), Ok(request));
        }
        Err(refusal) => assert!(!refusal.message.is_empty(), "a refusal says why"),
    }
    if let Ok(answer) = read_answer(line) {
        let again = to_line(&answer).expect("an answer can be written");
        let back = read_answer(&again).expect("what we write, we read");
        assert_eq!(again, to_line(&back).expect("an answer can be written"), "version {VERSION}");
    }
}
