# grok1 for CMake: `find_package(grok1)` gives the targets
#
#   grok1::grok1   the shared library
#   grok1::static  the static one, with what it needs of the system
#
# each if it is installed. Both are found beside `grok1.pc`, which says the rest.

get_filename_component(_grok1_prefix "${CMAKE_CURRENT_LIST_DIR}/../../.." ABSOLUTE)
find_file(_grok1_pc grok1.pc
    PATHS "${_grok1_prefix}"
    PATH_SUFFIXES lib/pkgconfig lib64/pkgconfig "lib/${CMAKE_LIBRARY_ARCHITECTURE}/pkgconfig"
    NO_DEFAULT_PATH NO_CACHE)
if(NOT _grok1_pc)
    set(grok1_FOUND FALSE)
    set(grok1_NOT_FOUND_MESSAGE "no grok1.pc below ${_grok1_prefix}")
    return()
endif()
get_filename_component(_grok1_libdir "${_grok1_pc}/../.." ABSOLUTE)
file(STRINGS "${_grok1_pc}" _grok1_native REGEX "^Libs\\.private:")
string(REGEX REPLACE "^Libs\\.private: *" "" _grok1_native "${_grok1_native}")
separate_arguments(_grok1_native UNIX_COMMAND "${_grok1_native}")

set(_grok1_shared "${_grok1_libdir}/${CMAKE_SHARED_LIBRARY_PREFIX}grok1${CMAKE_SHARED_LIBRARY_SUFFIX}")
if(EXISTS "${_grok1_shared}" AND NOT TARGET grok1::grok1)
    add_library(grok1::grok1 SHARED IMPORTED)
    set_target_properties(grok1::grok1 PROPERTIES
        IMPORTED_LOCATION "${_grok1_shared}"
        INTERFACE_INCLUDE_DIRECTORIES "${_grok1_prefix}/include")
endif()

set(_grok1_static "${_grok1_libdir}/${CMAKE_STATIC_LIBRARY_PREFIX}grok1${CMAKE_STATIC_LIBRARY_SUFFIX}")
if(EXISTS "${_grok1_static}" AND NOT TARGET grok1::static)
    add_library(grok1::static STATIC IMPORTED)
    set_target_properties(grok1::static PROPERTIES
        IMPORTED_LOCATION "${_grok1_static}"
        IMPORTED_LINK_INTERFACE_LANGUAGES C
        INTERFACE_INCLUDE_DIRECTORIES "${_grok1_prefix}/include"
        INTERFACE_LINK_LIBRARIES "${_grok1_native}")
endif()

foreach(_grok1_variable prefix pc libdir native shared static)
    unset(_grok1_${_grok1_variable})
endforeach()
unset(_grok1_variable)
