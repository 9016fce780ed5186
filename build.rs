//! Builds the C++ shim against Kea's headers and turns `include/dhcp_etcd.h` into Rust.
//!
//! Kea's headers are looked for in `KEA_INCLUDE_DIR`, then where `pkg-config kea` says, then in `/usr/include/kea`
//! (Debian's `kea-dev` ships no `.pc` file). `KEA_LIB_DIR` names a directory of Kea's libraries that the linker does
//! not search by itself. Without the feature `kea` nothing is done here.

fn main() {
    #[cfg(feature = "kea")]
    kea::build();
}

#[cfg(feature = "kea")]
mod kea {
    use std::env;
    use std::path::{Path, PathBuf};

    /// The Kea libraries that the shim calls, besides [`packet_library`]; `--as-needed` drops what a version turns out not
    /// to need.
    const LIBRARIES: [&str; 9] = [
        "kea-dhcpsrv",
        "kea-process",
        "kea-stats",
        "kea-hooks",
        "kea-cc",
        "kea-asiolink",
        "kea-log",
        "kea-util",
        "kea-exceptions",
    ];

    pub fn build() {
        for path in ["build.rs", "src/bridge.rs", "cpp-shim", "include"] {
            println!("cargo:rerun-if-changed={path}");
        }
        println!("cargo:rerun-if-env-changed=KEA_INCLUDE_DIR");
        println!("cargo:rerun-if-env-changed=KEA_LIB_DIR");
        shared_header();
        let kea_include_dir = kea_include_dir();
        let kea_version = hooks_version(&kea_include_dir);
        shim(&kea_include_dir, kea_version);
        if let Ok(dir) = env::var("KEA_LIB_DIR") {
            println!("cargo:rustc-link-search=native={dir}");
        }
        for library in LIBRARIES.into_iter().chain([packet_library(kea_version)]) {
            println!("cargo:rustc-link-lib=dylib={library}");
        }
        // Kea closes and reopens hook libraries; code with thread-locals and threads must stay mapped.
        println!("cargo:rustc-cdylib-link-arg=-Wl,-z,nodelete");
    }

    fn kea_include_dir() -> PathBuf {
        let mut tried = Vec::new();
        let from_variable = env::var_os("KEA_INCLUDE_DIR").map(PathBuf::from);
        let from_pkg_config = || {
            let kea = pkg_config::Config::new().cargo_metadata(false).probe("kea").ok()?;
            kea.include_paths.into_iter().next()
        };
        let candidates = match from_variable {
            Some(dir) => vec![dir],
            None => from_pkg_config().into_iter().chain([PathBuf::from("/usr/include/kea")]).collect(),
        };
        for dir in candidates {
            if dir.join("hooks/hooks.h").is_file() {
                return dir;
            }
            tried.push(dir.display().to_string());
        }
        panic!(
            "Kea's headers were not found: no hooks/hooks.h in {}. Install them (Debian: apt-get install kea-dev), set \
             KEA_INCLUDE_DIR to the directory that holds hooks/hooks.h, or build the parts that need no Kea with \
             --no-default-features.",
            tried.join(", ")
        );
    }

    /// The library of packets and interfaces was renamed in Kea 3.0.
    fn packet_library(kea_version: u32) -> &'static str {
        if kea_version < 30_000 { "kea-dhcp++" } else { "kea-dhcp" }
    }

    /// `KEA_HOOKS_VERSION`, 20200 for Kea 2.2.0.
    fn hooks_version(kea_include_dir: &Path) -> u32 {
        let path = kea_include_dir.join("hooks/hooks.h");
        let header = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        let version = header.split("KEA_HOOKS_VERSION =").nth(1).and_then(|rest| rest.split(';').next());
        let version = version.and_then(|version| version.trim().parse::<u32>().ok());
        version.unwrap_or_else(|| panic!("{} does not define KEA_HOOKS_VERSION", path.display()))
    }

    fn shared_header() {
        let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets OUT_DIR")).join("abi.rs");
        bindgen::Builder::default()
            .header("include/dhcp_etcd.h")
            .allowlist_file(".*/dhcp_etcd\\.h")
            .default_enum_style(bindgen::EnumVariation::ModuleConsts)
            .generate()
            .expect("include/dhcp_etcd.h could not be read by bindgen (it needs libclang; Debian: libclang-dev)")
            .write_to_file(&out)
            .expect("abi.rs could not be written");
    }

    fn shim(kea_include_dir: &Path, kea_version: u32) {
        cxx_build::bridge("src/bridge.rs")
            .file("cpp-shim/shim.cc")
            .include("cpp-shim")
            .include("include")
            .std("c++17")
            .define("DHCP_ETCD_KEA", kea_version.to_string().as_str())
            .flag("-isystem")
            .flag(kea_include_dir.to_str().expect("the path to Kea's headers is UTF-8"))
            // Only found where Kea's own directory lacks the header.
            .flag("-idirafter")
            .flag("cpp-shim/kea-2.2.0")
            .flag("-Wall")
            .flag("-Wextra")
            .flag("-Werror")
            .compile("dhcp_etcd_shim");
    }
}
