//! Types that the XDP programs and userspace share.
#![no_std]
