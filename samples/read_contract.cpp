// What a C++ program must know of a bundle: its plans, and what goes in and out of them.
//
// g++ -std=c++17 read_contract.cpp -o read_contract    (nlohmann/json: apt install nlohmann-json3-dev)
// ./read_contract lrrnet-int8
#include <exception>
#include <fstream>
#include <iostream>
#include <nlohmann/json.hpp>
#include <stdexcept>
#include <string>

static void show(const char *role, const nlohmann::json &tensor) {
    std::cout << role << ' ' << tensor.at("name").get<std::string>() << ' '
              << tensor.at("shape").dump() << ' ' << tensor.at("dtype").get<std::string>() << '\n';
}

int main(int count, char **words) try {
    if (count != 2) throw std::runtime_error("usage: read_contract BUNDLE");
    const std::string folder = words[1];
    std::ifstream file(folder + "/manifest.json");
    if (!file) throw std::runtime_error(folder + " holds no manifest.json; is it a bundle?");
    const auto manifest = nlohmann::json::parse(file);
    if (manifest.at("schema") != 4) throw std::runtime_error("this reader knows schema 4 only");
    show("input", manifest.at("input"));    // 0..1, see `frame` for how a sensor's frame becomes that
    show("output", manifest.at("output"));  // confidence, 0..1
    const auto &frame = manifest.at("frame");
    std::cout << "bits " << frame.at("bit_depth") << ", " << frame.at("normalisation") << ", fit "
              << frame.at("fit") << ", threshold " << manifest.at("threshold") << '\n';
    for (const auto &[name, plan] : manifest.at("plans").items())
        std::cout << "plan " << name << ": " << plan.at("library") << ' ' << plan.at("version")
                  << ", compute capability " << plan.at("compute_capabilities") << '\n';
    return 0;
} catch (const std::exception &err) {
    std::cerr << err.what() << '\n';
    return 1;
}
