//! Lists the files of the model, so that they can be compiled into the library.

use std::{env, fmt::Write as _, fs, path::Path};

fn main() -> std::io::Result<()> {
    let root = env::var("CARGO_MANIFEST_DIR").map_err(std::io::Error::other)?;
    let out = env::var("OUT_DIR").map_err(std::io::Error::other)?;
    let model = Path::new(&root).join("model");
    println!("cargo::rerun-if-changed={}", model.display());
    let mut list = String::from("&[\n");
    add(&model, "", &mut list)?;
    list.push(']');
    fs::write(Path::new(&out).join("files.rs"), list)
}

/// Adds the files below `folder`, whose names begin with `prefix`, in order.
fn add(folder: &Path, prefix: &str, list: &mut String) -> std::io::Result<()> {
    let mut paths = Vec::new();
    let failed = |error| std::io::Error::other(format!("reading {}: {error}", folder.display()));
    for entry in fs::read_dir(folder).map_err(failed)? {
        paths.push(entry?.path());
    }
    paths.sort();
    for path in paths {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        if path.is_dir() {
            add(&path, &format!("{prefix}{name}/"), list)?;
        } else {
            let name = format!("{prefix}{name}");
            writeln!(list, "    ({name:?}, include_bytes!({path:?})),")
                .map_err(std::io::Error::other)?;
        }
    }
    Ok(())
}
