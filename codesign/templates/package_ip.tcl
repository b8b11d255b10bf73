# The machine as an IP of Vivado's catalog, for block designs of your own.
#     vivado -mode batch -source package_ip.tcl
# Leaves ip/component.xml beside this script: add that folder with set_property ip_repo_paths.
set here [file dirname [file normalize [info script]]]
create_project -in_memory -part $part
add_files -norecurse [list [file join $$here .. rtl $top.v] [file join $$here $wrapper.v]]
set_property top $wrapper [current_fileset]
update_compile_order -fileset sources_1
ipx::package_project -root_dir [file join $$here ip] -vendor codesign -library accelerators -taxonomy /UserIP -import_files -set_current true -force
set core [ipx::current_core]
set_property name $wrapper $$core
set_property version 1.0 $$core
set_property display_name $name $$core
set_property supported_families {zynq Production} $$core
set buses [llength [ipx::get_bus_interfaces -of_objects $$core]]
if {$$buses != $buses} {
    puts "ERROR: expected $buses interfaces (registers, $ports memory ports, clock, reset, interrupt), Vivado found $$buses; see $wrapper.v"
    exit 1
}
ipx::create_xgui_files $$core
ipx::update_checksums $$core
ipx::check_integrity $$core
ipx::save_core $$core
