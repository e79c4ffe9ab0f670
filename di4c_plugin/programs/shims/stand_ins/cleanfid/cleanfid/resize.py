"""Stand-in for `cleanfid.resize`."""

from di4c_plugin.programs.shims.refuse import refuses

make_resizer = refuses("cleanfid", "cleanfid.resize.make_resizer", "clean-fid")
