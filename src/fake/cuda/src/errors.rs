//! Names and descriptions of result codes.

use crate::edge::Out;
use std::ffi::{CString, c_char};
use std::sync::OnceLock;
use vcuda_driver::result::{CUerror, CUresult, to_raw};

struct Texts {
    code: u32,
    name: CString,
    description: CString,
}

fn texts(result: CUresult) -> Option<&'static Texts> {
    static TEXTS: OnceLock<Vec<Texts>> = OnceLock::new();
    let all = TEXTS.get_or_init(|| {
        let named = CUerror::NAMED.iter().map(|&(error, name)| (error.code(), name));
        std::iter::once((0, "CUDA_SUCCESS"))
            .chain(named)
            .map(|(code, name)| Texts {
                code,
                name: CString::new(name).unwrap_or_default(),
                description: CString::new(describe(name)).unwrap_or_default(),
            })
            .collect()
    });
    let code = to_raw(result);
    all.iter().find(|texts| texts.code == code)
}

/// `CUDA_ERROR_OUT_OF_MEMORY` is "out of memory".
fn describe(name: &str) -> String {
    match name {
        "CUDA_SUCCESS" => "no error".to_owned(),
        _ => name.trim_start_matches("CUDA_ERROR_").to_ascii_lowercase().replace('_', " "),
    }
}

fn give(out: &Out<*const c_char>, text: Option<&'static CString>) -> CUresult {
    out.set(text.map_or(std::ptr::null(), |text| text.as_ptr()));
    if text.is_some() { Ok(()) } else { Err(CUerror::INVALID_VALUE) }
}

pub fn name(result: CUresult, out: Out<*const c_char>) -> CUresult {
    give(&out, texts(result).map(|texts| &texts.name))
}

pub fn description(result: CUresult, out: Out<*const c_char>) -> CUresult {
    give(&out, texts(result).map(|texts| &texts.description))
}
